//! Tests of the agent as its client sees it: the real binary, its real socket, the generated client.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod direct;
mod exec;
mod files;
mod guarantees;
mod harness;
mod lifecycle;
mod logs;
mod measure;
mod memory;
mod puts;
mod transfers;
