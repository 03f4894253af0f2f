//! Why a log cannot be followed or deleted: the operation, the path, and the system's reason.

use std::io;
use std::path::{Path, PathBuf};

use crate::files::reason;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: cannot {operation}: {}", path.display(), reason(source))]
    System {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("the agent failed while it handled the log; this is a bug in podbridge")]
    Panicked,
}

impl Error {
    pub(super) fn system(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::System {
            operation,
            path,
            source,
        }
    }

    /// The system's errno, if it was the system that refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::System { source, .. } => source.raw_os_error(),
            Self::Panicked => None,
        }
    }
}
