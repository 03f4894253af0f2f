//! Attributes of one path.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Error;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// st_mode: type and permission bits.
    pub mode: u32,
    pub size: u64,
    pub uid: u32,
    pub gid: u32,
    /// Nanoseconds since the epoch.
    pub mtime_ns: i64,
}

impl From<&Metadata> for Attributes {
    fn from(meta: &Metadata) -> Self {
        Self {
            mode: meta.mode(),
            size: meta.len(),
            uid: meta.uid(),
            gid: meta.gid(),
            mtime_ns: meta
                .mtime()
                .saturating_mul(1_000_000_000)
                .saturating_add(meta.mtime_nsec()),
        }
    }
}

/// `None` if there is no such path.
pub fn stat(path: &Path, follow: bool) -> Result<Option<Attributes>, Error> {
    let meta = if follow {
        fs::metadata(path)
    } else {
        fs::symlink_metadata(path)
    };
    match meta {
        Ok(meta) => Ok(Some((&meta).into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::system("look at it", path)(error)),
    }
}
