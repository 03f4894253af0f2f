//! The gRPC API between bridge and agent: generated messages, clients and servers, the limits both sides keep, and
//! the digests both compute.
//! It owns the wire and nothing else: no state, no I/O. Both binaries depend on it; it depends on neither.

pub mod digest;
pub mod limits;

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
