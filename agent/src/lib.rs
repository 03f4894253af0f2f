//! podbridge's agent: the library behind the binary `podbridge-agent`, and the inventory of its rooms. `commands` is
//! what a user can ask for, `app` puts the server together, `rpc` is its gRPC face, `exec`, `files`, `git` and `logs`
//! are the domains, `transport` is how connections come, `sys` alone holds `unsafe` code.

mod app;
pub mod commands;
mod config;
mod env;
pub mod exec;
pub mod files;
mod git;
pub mod logs;
mod rpc;
mod sys;
mod telemetry;
mod transport;
