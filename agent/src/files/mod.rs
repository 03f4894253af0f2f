//! Single files: written whole or not at all, and read to their end, both with a digest. This domain knows no gRPC and no generated
//! type; `rpc` translates. `Put`, `FileReader` and `stat` block: their callers run them on threads that may block (`run_blocking`).
//! `receive` and `ContentWriter` are asynchronous.

mod blocking;
mod content_writer;
mod error;
mod get;
mod hole_digest;
mod put;
mod read_ahead;
mod receive;
mod resolve;
mod stat;
mod transfers;

pub use blocking::run_blocking;
pub use content_writer::{ContentWriter, Trailer, commit_all};
pub use error::{Error, SystemError};
pub use get::{Chunk, FileReader};
pub use put::{Put, Target};
pub use read_ahead::{QueuedPart, ReadAhead, ReadPart};
pub use receive::{Part, Progress, Transfer, receive};
pub use resolve::Location;
pub use stat::{Attributes, stat};
pub use transfers::{Receipt, TransferId, Transfers};
