//! What can go wrong with a file in the pod: the operation, the path, and the system's reason.

use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: cannot {operation}: {}", path.display(), reason(source))]
    System {
        operation: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{}: not a regular file", .0.display())]
    NotRegular(PathBuf),
    #[error("{}: is a symbolic link, and none is followed below a root", .0.display())]
    SymbolicLink(PathBuf),
    #[error("{}: is no relative path without `..`, as it must be with a root", .0.display())]
    NotBelowRoot(PathBuf),
    #[error("{}: changed while it was read; try again", .0.display())]
    Changed(PathBuf),
    #[error("the container has no user {0:?} in /etc/passwd")]
    UnknownUser(String),
    #[error("{}: {got} bytes arrived, {sent} were sent; nothing was changed", path.display())]
    Length { path: PathBuf, sent: u64, got: u64 },
    #[error("{}: the content changed on its way (its digest differs); nothing was changed", .0.display())]
    Digest(PathBuf),
}

/// The system's words without "(os error N)".
pub(crate) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
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
            _ => None,
        }
    }
}
