//! Tests of the agent as its client sees it: the real binary, its real socket, the generated client.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // a test fails by panicking, and may read its environment

mod containers;
mod direct;
mod exec;
mod files;
mod guarantees;
mod harness;
mod hostile;
mod lifecycle;
mod logs;
mod measure;
mod memory;
mod puts;
mod refusals;
mod transfers;
mod tree_peers;
mod warm_python;
