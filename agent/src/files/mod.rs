//! Single files: written whole or not at all, read to the end, both with a digest. Blocking calls on real paths; no gRPC
//! here. `rpc::files` runs them on threads that may block.

mod error;
mod get;
mod put;
mod stat;

pub use error::Error;
pub(crate) use error::reason;
pub use get::Source;
pub use put::{Put, Target};
pub use stat::{Attributes, stat};

/// SHA-256.
pub type Sha256 = [u8; 32];
