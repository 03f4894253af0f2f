//! The bridge on the executor: one daemon per pod that owns the connection, and the command line that talks to it. Kubernetes
//! is known to `pod` alone, gRPC to `session` alone, `unsafe` to `sys` alone.

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
