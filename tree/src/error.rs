//! Errors that end a whole copy. A failure that concerns one path is a problem (`report`), not an error.

use std::io;

use rustix::io::Errno;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This side cannot continue, for the reason in this sentence.
    #[error("{0}")]
    Local(String),
    /// The other side cannot continue, for the reason in its sentence.
    #[error("{0}")]
    Peer(String),
    #[error("the other side broke the tree protocol: {0}; use the same release on both sides")]
    Protocol(&'static str),
    #[error("the stream ended before the copy was complete")]
    Truncated,
    #[error("the stream broke: {0}")]
    Stream(#[from] io::Error),
}

/// Returns the system's text for an error.
pub(crate) fn reason(errno: Errno) -> String {
    podbridge_files::reason(&errno.into())
}
