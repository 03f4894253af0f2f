//! Sender and receiver together: trees by chance, trees with traps, hostile peers.
#![allow(clippy::unwrap_used)] // a test fails by panicking

mod copies;
mod edge_cases;
mod harness;
mod hostile;
mod random;
