//! What tests of both binaries share: a pair of them in a directory of its own, a proxy that cuts the link between them, and the soak
//! that runs commands through the proxy. `process/` holds these tests. `markdown`, `module_graph`, `repository` and `rust_source` read
//! the sources for `tidy.rs`.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // a test fails by panicking, and may read its environment

pub mod build;
pub mod client_protocol;
pub mod machine;
pub mod markdown;
pub mod module_graph;
pub mod own_address;
pub mod pair;
pub mod proxy;
pub mod repository;
pub mod rust_source;
pub mod soak;
pub mod trees;
