//! The real `podbridge` as a process, on everything that needs no agent: bad input and the life of a bridge. Process tests
//! with an agent are in the workspace's `tests`.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a test fails by panicking

mod bad_input;
mod bridge;
mod harness;
mod shim;
mod shim_exec;
mod ssh;
