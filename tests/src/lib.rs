//! Both binaries together: a pair of them in a directory of its own, a proxy that cuts the link between them, and the soak
//! that runs commands through it. `process/` holds the tests; `ansible/` and `cluster/` are not Rust.
#![allow(clippy::unwrap_used)] // a test fails by panicking

pub mod build;
pub mod pair;
pub mod place;
pub mod proxy;
pub mod soak;
pub mod trees;
