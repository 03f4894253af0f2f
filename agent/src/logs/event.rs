//! Events of a follower, and the position at which another follower can continue.

use bytes::Bytes;

/// Offset in one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    pub file: FileId,
    pub offset: u64,
}

/// Device, inode and time of birth of a file; only compared, never taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileId(pub Bytes);

#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// No regular file is there that the agent may read.
    Absent,
    /// Position of the data that follows: a file appeared, was replaced or was truncated.
    Begins(Position),
    Data(Bytes),
}
