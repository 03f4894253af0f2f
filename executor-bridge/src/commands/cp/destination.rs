//! The local side of a download: a file that appears whole or not at all, a device or pipe, or standard output.

use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::error::{Failure, Kind};
use crate::protocol::result::FileStat;
use crate::protocol::target::hex;
use crate::random;

pub(super) const PERMISSIONS: u32 = 0o7777;
/// As many as Linux follows.
const LINKS: usize = 40;

/// Where a file from the pod goes. A local one appears whole or not at all.
pub(super) enum Sink {
    Standard,
    File {
        file: File,
        temporary: PathBuf,
        path: PathBuf,
        done: bool,
    },
}

impl Sink {
    pub(super) fn create(path: &Path, name: Option<&OsStr>) -> Result<Self, Failure> {
        let path = match (fs::metadata(path).is_ok_and(|found| found.is_dir()), name) {
            (true, Some(name)) => path.join(name),
            (true, None) => return Err(Failure::usage("the pod's path has no file name")),
            (false, _) if path.as_os_str().as_bytes().ends_with(b"/") => {
                let missing = io::Error::from(io::ErrorKind::NotADirectory);
                return Err(local(path, "written", &missing));
            }
            (false, _) => path.to_owned(),
        };
        // A symbolic link keeps pointing where it points, also if nothing is there yet.
        let path = match fs::canonicalize(&path) {
            Ok(found) => found,
            Err(_) if fs::symlink_metadata(&path).is_ok() && fs::metadata(&path).is_err() => behind_links(path),
            Err(_) => path,
        };
        if fs::metadata(&path).is_ok_and(|found| !found.is_file()) {
            // A device or pipe cannot be replaced.
            let file = OpenOptions::new().write(true).open(&path);
            let file = file.map_err(|error| local(&path, "opened", &error))?;
            return Ok(Sink::File {
                file,
                temporary: PathBuf::new(),
                path,
                done: true,
            });
        }
        let temporary = path.with_file_name(format!(".podbridge-{}", hex(&random::bytes::<8>())));
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(|error| local(&path, "written", &error))?;
        Ok(Sink::File {
            file,
            temporary,
            path,
            done: false,
        })
    }

    pub(super) fn failed(&self, what: &str, error: &io::Error) -> Failure {
        match self {
            Sink::Standard => Failure::new(Kind::LocalFile, format!("standard output cannot be {what}: {error}")),
            Sink::File { path, .. } => local(path, what, error),
        }
    }

    /// A file that the bridge can write itself.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Sink::File { file, done: false, .. } => Some(file.as_fd()),
            Sink::File { .. } | Sink::Standard => None,
        }
    }

    /// How much of it there is.
    pub(super) fn length(&self) -> u64 {
        match self {
            Sink::File { file, .. } => file.metadata().map_or(0, |found| found.len()),
            Sink::Standard => 0,
        }
    }

    pub(super) fn write(&mut self, data: &[u8]) -> io::Result<()> {
        match self {
            Sink::Standard => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(data).and_then(|()| stdout.flush())
            }
            Sink::File { file, .. } => file.write_all(data),
        }
    }

    pub(super) fn finish(&mut self, stat: Option<FileStat>, sync: bool) -> Result<(), Failure> {
        let Sink::File {
            file,
            temporary,
            path,
            done: done @ false,
        } = self
        else {
            return Ok(());
        };
        let attributes = stat.map_or(Ok(()), |stat| {
            file.set_permissions(Permissions::from_mode(stat.mode & PERMISSIONS))?;
            let modified = match u64::try_from(stat.mtime_ns) {
                Ok(after) => SystemTime::UNIX_EPOCH + Duration::from_nanos(after),
                Err(_) => SystemTime::UNIX_EPOCH - Duration::from_nanos(stat.mtime_ns.unsigned_abs()),
            };
            file.set_times(FileTimes::new().set_modified(modified))
        });
        attributes
            .and_then(|()| if sync { file.sync_all() } else { Ok(()) })
            .and_then(|()| fs::rename(temporary, &*path))
            .and_then(|()| match path.parent().filter(|_| sync) {
                Some(parent) if parent.as_os_str().is_empty() => File::open(".")?.sync_all(),
                Some(parent) => File::open(parent)?.sync_all(),
                None => Ok(()),
            })
            .map_err(|error| local(path, "finished", &error))?;
        *done = true;
        Ok(())
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Sink::File {
            temporary, done: false, ..
        } = self
        {
            // Nothing half-done is left; what failed was said.
            let _ = fs::remove_file(temporary);
        }
    }
}

/// Where a symbolic link points to that leads nowhere.
fn behind_links(mut path: PathBuf) -> PathBuf {
    for _ in 0..LINKS {
        match fs::read_link(&path) {
            Ok(target) => path = path.parent().unwrap_or(Path::new("")).join(target),
            Err(_) => return path,
        }
    }
    path
}

fn local(path: &Path, what: &str, error: &io::Error) -> Failure {
    Failure::new(Kind::LocalFile, format!("{} cannot be {what}: {error}", path.display()))
}
