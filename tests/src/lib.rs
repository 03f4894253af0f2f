//! What tests of both binaries share: a pair of them in a directory of its own, a proxy that cuts the link between them, and the soak
//! that runs commands through the proxy. `process/` holds these tests.
#![allow(clippy::unwrap_used)] // a test fails by panicking

pub mod build;
pub mod machine;
pub mod pair;
pub mod proxy;
pub mod soak;
pub mod trees;
