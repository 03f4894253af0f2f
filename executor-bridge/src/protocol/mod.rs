//! The client protocol (docs/client-protocol.md) as types: targets and their keys, frames, requests, results. Shared by
//! `client` and `daemon`; no I/O here.

pub(crate) mod byte_string;
pub(crate) mod frame;
pub(crate) mod request;
pub(crate) mod result;
pub(crate) mod target;

/// The version that both sides speak.
pub(crate) const VERSION: u32 = 1;
/// How much stdin a client may send beyond the last acknowledged offset: 400 MB/s at 10 ms.
pub(crate) const STDIN_WINDOW: usize = 4 << 20;
