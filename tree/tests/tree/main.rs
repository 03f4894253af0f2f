//! Sender and receiver together: trees by chance, trees with traps, hostile peers.
#![allow(clippy::unwrap_used)] // a test fails by panicking

mod copies;
mod harness;
mod hostile;
mod random;
mod traps;
