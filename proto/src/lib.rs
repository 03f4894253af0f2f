//! The gRPC API between bridge and agent: generated messages, clients and servers, the limits that both sides keep, the digest of a
//! file's content that both sides compute, and how a peer's words are made fit for terminals and logs.
//!
//! The crate owns what both sides must agree on and nothing else: it keeps no state and does no I/O. The agent, the bridge and the tree
//! copy depend on it; it depends on none of them.

pub mod digest;
pub mod limits;
pub mod words;

/// Package `podbridge.v1`, generated from `proto/podbridge/v1/*.proto` by `tests/bootstrap.rs` and committed.
#[allow(
    missing_debug_implementations,
    unreachable_pub,
    clippy::all,
    clippy::unwrap_used
)]
#[rustfmt::skip]
pub mod v1 {
    include!("gen/podbridge.v1.rs");
}
