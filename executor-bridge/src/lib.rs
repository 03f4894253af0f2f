//! The bridge on the executor: a daemon per pod that owns the connections to the agent, and the command line that talks to the daemon.
//! `pod` alone uses the Kubernetes API; `connections` and `session` alone use gRPC; `sys` alone has `unsafe` code; `env` alone
//! reads the process's environment.

mod backoff;
mod cli;
mod client;
mod commands;
mod config;
mod connections;
mod console;
mod daemon;
mod env;
mod error;
mod exit;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod kubectl_shim;
mod launch;
mod link;
mod pod;
mod program;
mod protocol;
mod random;
mod report;
mod session;
mod shutdown;
mod sockets;
mod sys;
mod telemetry;
mod terminal;

pub use commands::run;
