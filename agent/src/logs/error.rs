//! Errors of following or deleting a log.

use std::path::PathBuf;

use crate::files::SystemError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    System(#[from] SystemError),
    #[error("{} has more than {limit} names that match", directory.display())]
    TooMany { directory: PathBuf, limit: usize },
    #[error("the agent failed while it handled the log; this is a bug in podbridge")]
    Panicked,
}

impl Error {
    /// Returns the errno; `None` if no system call failed.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::System(error) => error.errno(),
            Self::TooMany { .. } | Self::Panicked => None,
        }
    }
}
