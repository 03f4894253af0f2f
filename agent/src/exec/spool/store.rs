//! Shared by the spools of all execs: the directory of their files, and the limits on memory and disk that they hold together. It
//! counts and creates; `stream` decides. `commands::serve` makes it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use podbridge_files::temporary;
use rustix::fs::{AtFlags, Mode, OFlags, openat, unlinkat};
use tokio::sync::Semaphore;

use crate::sys::safe_path::{Missing, SafeDirectory};

/// Bytes in memory of all streams together; above it, each stream keeps only a little.
const MEMORY_LIMIT: u64 = 64 << 20;
/// Most streams whose output is written to a file at the same time.
const MAX_WRITERS: usize = 2;
/// Magic number of tmpfs (statfs(2)). A file there is memory, which the container may not have.
const TMPFS: i64 = 0x0102_1994;

/// Directory and limits of the spool files.
#[derive(Debug)]
pub(crate) struct Store {
    /// `None`: no files, output waits in memory only.
    directory: Option<PathBuf>,
    /// Bytes in memory now.
    memory: AtomicU64,
    /// Bytes reserved in files now.
    disk: AtomicU64,
    disk_limit: u64,
    /// Permits to write to a file. A hundred commands that print at once would take the processor from everybody else.
    pub(super) writers: Semaphore,
}

impl Store {
    /// Makes a store with files in `directory`, of at most `limit` bytes together. Without a directory, or with a limit of 0, all
    /// output stays in memory.
    pub(crate) fn new(directory: Option<PathBuf>, limit: u64) -> Self {
        Self {
            directory: directory.filter(|_| limit > 0),
            memory: AtomicU64::new(0),
            disk: AtomicU64::new(0),
            disk_limit: limit,
            writers: Semaphore::new(MAX_WRITERS),
        }
    }

    pub(super) fn has_files(&self) -> bool {
        self.directory.is_some()
    }

    pub(super) fn memory_is_short(&self) -> bool {
        self.memory.load(Relaxed) > MEMORY_LIMIT
    }

    pub(super) fn add_memory(&self, bytes: u64) {
        self.memory.fetch_add(bytes, Relaxed);
    }

    pub(super) fn subtract_memory(&self, bytes: u64) {
        self.memory.fetch_sub(bytes, Relaxed);
    }

    /// Reserves bytes in files; false if all files together would exceed the limit.
    pub(super) fn reserve_disk(&self, bytes: u64) -> bool {
        let more = |used: u64| Some(used + bytes).filter(|sum| *sum <= self.disk_limit);
        self.disk.fetch_update(Relaxed, Relaxed, more).is_ok()
    }

    pub(super) fn release_disk(&self, bytes: u64) {
        self.disk.fetch_sub(bytes, Relaxed);
    }

    /// Makes a file without a name: nothing is left of it, however the agent ends. `Err` if its file system is in memory.
    pub(super) fn new_file(&self) -> io::Result<File> {
        let directory = self.directory.as_deref().ok_or(io::ErrorKind::Unsupported)?;
        // Opened each time: a task may have removed it, for example from /tmp, and somebody else may have taken its name.
        let has_parent = directory.parent().is_some_and(Path::exists);
        let missing = if has_parent { Missing::Make } else { Missing::Refuse };
        let directory = SafeDirectory::open(directory, missing).map_err(io::Error::other)?;
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = match openat(&directory, ".", flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => file,
            // The file system may not support O_TMPFILE.
            Err(_) => named_and_unlinked(&directory)?,
        };
        match rustix::fs::fstatfs(&file)?.f_type as i64 {
            TMPFS => Err(io::Error::other("the spool directory is on a file system in memory")),
            _ => Ok(file.into()),
        }
    }
}

/// Makes a file with a name and removes the name at once.
fn named_and_unlinked(directory: &SafeDirectory) -> io::Result<OwnedFd> {
    let name = temporary::name(temporary::random_number());
    let file = temporary::create(directory, &name, Mode::RUSR | Mode::WUSR)?;
    unlinkat(directory, &name[..], AtFlags::empty())?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs root, because the attack needs another user.
    #[test]
    fn a_directory_that_another_user_has_put_there_is_not_used() {
        use std::os::unix::fs::{PermissionsExt as _, chown, lchown, symlink};
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o1777)).unwrap();
        let (theirs, link, target) = ["theirs", "link", "target"]
            .map(|name| directory.path().join(name))
            .into();
        std::fs::create_dir(&theirs).unwrap();
        chown(&theirs, Some(1000), Some(1000)).unwrap();
        std::fs::create_dir(&target).unwrap();
        symlink(&target, &link).unwrap();
        lchown(&link, Some(1000), Some(1000)).unwrap();
        for path in [theirs, link] {
            let refused = Store::new(Some(path.clone()), 1).new_file().unwrap_err().to_string();
            assert!(
                refused.contains("uid 1000") || refused.contains("symbolic link"),
                "{refused}"
            );
        }
    }

    #[test]
    fn a_removed_directory_is_made_again() {
        let directory = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let store = Store::new(Some(directory.path().join("own")), 1);
        for _ in 0..2 {
            let made = store.new_file();
            // The directory of the test may be in memory; then there is no file, and the reason is no missing directory.
            assert!(made.is_ok() || directory.path().join("own").is_dir());
            std::fs::remove_dir_all(directory.path().join("own")).unwrap();
        }
    }
}
