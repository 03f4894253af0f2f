//! The library behind the binary `podbridge-agent`, and the list of its modules. `commands` holds the subcommands, `config` their
//! options, `app` puts the server together, `rpc` is its gRPC interface, `transport` accepts connections. `exec`, `files`, `git` and
//! `logs` are the domains: they use neither `rpc` nor `transport`. `sys` alone holds `unsafe` code, `env` alone reads the environment.

mod app;
pub mod commands;
mod config;
mod env;
pub mod exec;
pub mod files;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod git;
pub mod logs;
mod rpc;
mod sys;
mod telemetry;
mod transport;
