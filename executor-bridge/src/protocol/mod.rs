//! Types of the client protocol (docs/client-protocol.md): targets and their keys, frames, requests, results. `client` and `daemon` share
//! them. This module does no I/O.

pub(crate) mod byte_string;
pub(crate) mod frame;
pub(crate) mod json_fault;
pub(crate) mod object_name;
pub(crate) mod request;
pub(crate) mod result;
pub(crate) mod target;

/// Version of the protocol that both sides speak.
pub(crate) const VERSION: u32 = 1;
/// Bytes of stdin that a client may send beyond the last acknowledged offset: 400 MB/s at a round trip of 10 ms.
pub(crate) const STDIN_WINDOW: usize = 4 << 20;
