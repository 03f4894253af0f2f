//! Errors of single files. A failed system call is a `SystemError`: the operation, the path, and the system's reason. `logs` reports
//! its failed calls as `SystemError`, too; `rpc::convert` turns both into statuses.

use std::io;
use std::path::{Path, PathBuf};

use podbridge_files::reason;
use podbridge_proto::limits::FalseLength;

/// A system call on a path that failed.
#[derive(Debug, thiserror::Error)]
#[error("{}: cannot {operation}: {}", path.display(), reason(source))]
pub struct SystemError {
    /// Verb phrase that completes "cannot …", for example "open it".
    operation: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl SystemError {
    /// Returns a function for `map_err` that adds the operation and the path to the system's error.
    pub(crate) fn during(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self {
            operation,
            path,
            source,
        }
    }

    /// Returns the errno; `None` if the error did not come from the kernel.
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    System(#[from] SystemError),
    #[error("{}: not a regular file", .0.display())]
    NotRegular(PathBuf),
    #[error("{}: is a symbolic link; below a root, symbolic links are not followed", .0.display())]
    SymbolicLink(PathBuf),
    #[error("{}: must be a relative path without `..`, because the request names a root", .0.display())]
    NotBelowRoot(PathBuf),
    #[error("{}: belongs to uid {owner}, in a directory where everybody may make files, so it is neither followed nor written; remove it first", path.display())]
    Foreign { path: PathBuf, owner: u32 },
    #[error("{}: changed while it was read; try again", .0.display())]
    Changed(PathBuf),
    #[error("the container has no user {0:?} in /etc/passwd")]
    UnknownUser(String),
    #[error("{}: {got} bytes arrived, but {sent} were sent; nothing was changed", path.display())]
    Length { path: PathBuf, sent: u64, got: u64 },
    #[error("{}: the content was damaged on the way (its digest differs); nothing was changed", .0.display())]
    Digest(PathBuf),
    #[error("{0}; nothing was changed")]
    FalseLength(#[from] FalseLength),
    #[error("the put ended without a trailer; nothing was changed")]
    NoTrailer,
    #[error("a put has exactly one header")]
    NotOneHeader,
    #[error("transfer_id belongs to a transfer with another target")]
    OtherTarget,
    #[error("the agent failed while it handled the file; this is a bug in podbridge")]
    Panicked,
}

impl Error {
    /// Returns a function for `map_err`, like `SystemError::during`.
    pub(super) fn system(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let error = SystemError::during(operation, path);
        move |source| Self::System(error(source))
    }

    /// Returns the errno; `None` if no system call failed.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::System(error) => error.errno(),
            // As from the kernel, where its protected_regular and protected_symlinks are set.
            Self::Foreign { .. } => Some(libc::EACCES),
            _ => None,
        }
    }
}
