//! The client protocol (docs/client-protocol.md) as types: targets and their keys, frames, requests, results. Shared by
//! `client` and `daemon`; no I/O here.

pub mod frame;
pub mod octets;
pub mod request;
pub mod result;
pub mod target;

/// The version that both sides speak.
pub const VERSION: u32 = 1;
/// How much stdin a client may send beyond the last acknowledged offset.
pub const STDIN_WINDOW: usize = 1 << 20;
