//! Single files: written whole or not at all, read to the end, both with a digest. Blocking calls on real paths; no gRPC
//! here. `rpc::files` runs them on threads that may block.

mod error;
mod get;
mod put;
mod resolve;
mod stat;
mod transfers;

pub use error::Error;
pub(crate) use error::reason;
pub use get::{Chunk, FileReader};
pub use put::{Put, Target};
pub use resolve::Location;
pub use stat::{Attributes, stat};
pub use transfers::{Receipt, TransferGuard, TransferId, TransferState, Transfers};
