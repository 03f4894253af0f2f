//! Attributes of one path. A blocking call; `rpc::files` makes it.

use rustix::fs::{AtFlags, CWD, FileType, Stat, statat};
use rustix::io::Errno;

use super::resolve::ResolvedPath;
use super::{Error, Location};

/// Attributes of a file, as stat(2) reports them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// st_mode: type and permission bits.
    pub mode: u32,
    pub size: u64,
    pub uid: u32,
    pub gid: u32,
    /// Modification time in nanoseconds since the epoch.
    pub mtime_ns: i64,
    /// Device, inode, size, mtime and ctime. The value differs if the path names another file or the file has changed.
    pub version: [u64; 5],
}

impl From<&Stat> for Attributes {
    fn from(stat: &Stat) -> Self {
        let nanoseconds = |seconds: i64, rest| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        let mtime_ns = nanoseconds(stat.st_mtime, stat.st_mtime_nsec as i64);
        let ctime_ns = nanoseconds(stat.st_ctime, stat.st_ctime_nsec as i64);
        let size = stat.st_size as u64;
        Self {
            mode: stat.st_mode,
            size,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime_ns,
            version: [stat.st_dev, stat.st_ino, size, mtime_ns as u64, ctime_ns as u64],
        }
    }
}

/// Returns the attributes of a path, or `None` if it does not exist. With `follow`, the attributes of a symbolic link are those of its
/// target; below a root, a symbolic link is then an error.
pub fn stat(location: &Location, follow: bool) -> Result<Option<Attributes>, Error> {
    let path = &location.path;
    let found = match &location.root {
        None => {
            let flags = if follow {
                AtFlags::empty()
            } else {
                AtFlags::SYMLINK_NOFOLLOW
            };
            statat(CWD, path, flags)
        }
        Some(root) => match ResolvedPath::below_root(root, path) {
            Ok(resolved) => statat(&resolved.directory, &resolved.name, AtFlags::SYMLINK_NOFOLLOW),
            Err(error) if error.errno() == Some(libc::ENOENT) => Err(Errno::NOENT),
            Err(error) => return Err(error),
        },
    };
    match found {
        Ok(stat) if follow && location.root.is_some() && FileType::from_raw_mode(stat.st_mode) == FileType::Symlink => {
            Err(Error::SymbolicLink(path.clone()))
        }
        Ok(stat) => Ok(Some((&stat).into())),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(Error::system("read its attributes", path)(errno.into())),
    }
}
