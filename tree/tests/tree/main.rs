//! Tests of sender and receiver together: random trees, edge cases, hostile peers.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // a test fails by panicking, and may read its environment

mod copies;
mod destinations;
mod edge_cases;
mod harness;
mod hostile;
mod privileges;
mod random;
mod rsync;
