//! Tests of sender and receiver together: random trees, edge cases, hostile peers.
#![allow(clippy::unwrap_used)] // a test fails by panicking

mod copies;
mod edge_cases;
mod harness;
mod hostile;
mod random;
