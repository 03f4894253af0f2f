//! Why a tree could not be brought over at all, and the system's reasons in words. What concerns one path is a problem, not an
//! error.

use std::io;

use rustix::io::Errno;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This side cannot go on: one sentence.
    #[error("{0}")]
    Local(String),
    /// The other side cannot: its sentence.
    #[error("{0}")]
    Peer(String),
    #[error("the other side broke the protocol of trees: {0}; use the same release on both sides")]
    Protocol(&'static str),
    #[error("the stream ended before the tree did")]
    Truncated,
    #[error("the stream broke: {0}")]
    Stream(#[from] io::Error),
}

pub(crate) fn reason(errno: Errno) -> String {
    podbridge_files::reason(&errno.into())
}
