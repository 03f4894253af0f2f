//! The gRPC face of the agent: translates messages to the domains and back. No state and no file system here.

mod agent;
mod convert;
mod exec;
mod files;
mod incoming;
mod logs;

pub(crate) use agent::{AgentService, Greeting};
pub(crate) use exec::ExecService;
pub(crate) use files::FilesService;
pub(crate) use logs::LogsService;
