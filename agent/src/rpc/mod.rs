//! The gRPC services of the agent: they convert messages to domain values and back, and call the domains. They keep no state between
//! calls and open no file: `exec`, `files`, `logs` and `transport` do. `app` puts the services into the server.

mod agent;
mod convert;
mod exec;
mod files;
mod logs;

pub(crate) use agent::{AgentService, Greeting};
#[cfg(any(test, fuzzing))]
pub(crate) use convert::check_messages;
pub(crate) use exec::ExecService;
pub(crate) use files::FilesService;
pub(crate) use logs::LogsService;
