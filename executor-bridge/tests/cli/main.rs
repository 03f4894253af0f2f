//! Tests of the real program `podbridge` as a process, for everything that needs no agent: bad input, the life of a bridge, pods
//! that lie, and the kubectl shim. Process tests with an agent are in the workspace's `tests`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)] // a test fails by panicking, and may read its environment

mod bad_input;
mod bridge;
mod harness;
mod hostile_pod;
mod shim;
mod shim_exec;
mod ssh;
