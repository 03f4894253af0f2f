//! The local destination of a download: a regular file, which is replaced as a whole or not at all, or written in place where it cannot be
//! replaced; a device or pipe; or standard output.

use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use podbridge_files::temporary;

use podbridge_files::in_place;
use rustix::fs::{CWD, Mode};
use rustix::io::Errno;

use crate::error::{Failure, Kind};
use crate::protocol::result::FileStat;

/// The bits of a mode that give permissions to users and groups.
const RWX_BITS: u32 = 0o777;
/// Symbolic links that are followed for one path, as in Linux.
const SYMBOLIC_LINKS_MAX: usize = 40;

/// The destination of a file from the pod.
pub(super) enum Destination {
    StandardOutput,
    /// A local path.
    File {
        file: File,
        /// Temporary file beside `path`; `Err`: none can be made, for this reason, so `file` has no name, and `path` will be written in
        /// place. Unused for a device or pipe.
        temporary: Result<PathBuf, Errno>,
        path: PathBuf,
        /// The temporary file was renamed to `path`, or `file` is a device or pipe.
        done: bool,
    },
}

impl Destination {
    /// Opens the destination; `name` is the file's name in the pod, for a `path` that is a directory.
    pub(super) fn create(path: &Path, name: Option<&OsStr>) -> Result<Self, Failure> {
        let path = match (fs::metadata(path).is_ok_and(|found| found.is_dir()), name) {
            (true, Some(name)) => path.join(name),
            (true, None) => return Err(Failure::usage("the path in the pod has no file name; name a file")),
            (false, _) if path.as_os_str().as_bytes().ends_with(b"/") => {
                let missing = io::Error::from(io::ErrorKind::NotADirectory);
                return Err(local_file_failure(path, "written", &missing));
            }
            (false, _) => path.to_owned(),
        };
        // A symbolic link stays: its target is written, also if the target does not exist yet.
        let path = match fs::canonicalize(&path) {
            Ok(found) => found,
            Err(_) if fs::symlink_metadata(&path).is_ok() && fs::metadata(&path).is_err() => {
                resolve_dangling_link(path)
            }
            Err(_) => path,
        };
        if fs::metadata(&path).is_ok_and(|found| !found.is_file()) {
            // A device or pipe cannot be replaced.
            let file = OpenOptions::new().write(true).open(&path);
            let file = file.map_err(|error| local_file_failure(&path, "opened", &error))?;
            return Ok(Destination::File {
                file,
                temporary: Ok(PathBuf::new()),
                path,
                done: true,
            });
        }
        let temporary = temporary::name(temporary::random_number());
        let temporary = path.with_file_name(OsStr::from_bytes(&temporary));
        let created = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary);
        let created = created.map(|file| (file, Ok(temporary))).or_else(|error| {
            let errno = Errno::from_io_error(&error).filter(|errno| in_place::may_help(*errno));
            match errno.filter(|_| in_place::open(CWD, &path).is_ok()) {
                Some(errno) => Ok((File::from(in_place::spool()?), Err(errno))),
                None => Err(error),
            }
        });
        let (file, temporary) = created.map_err(|error| local_file_failure(&path, "written", &error))?;
        Ok(Destination::File {
            file,
            temporary,
            path,
            done: false,
        })
    }

    /// Returns the failure that the destination cannot be `what`, for example written.
    pub(super) fn failure(&self, what: &str, error: &io::Error) -> Failure {
        match self {
            Destination::StandardOutput => {
                Failure::new(Kind::LocalFile, format!("standard output cannot be {what}: {error}"))
            }
            Destination::File { path, .. } => local_file_failure(path, what, error),
        }
    }

    /// Returns the file if the bridge can write it itself.
    pub(super) fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Destination::File { file, done: false, .. } => Some(file.as_fd()),
            Destination::File { .. } | Destination::StandardOutput => None,
        }
    }

    /// Returns how many bytes were written so far; 0 if unknown.
    pub(super) fn length(&self) -> u64 {
        match self {
            Destination::File { file, .. } => file.metadata().map_or(0, |found| found.len()),
            Destination::StandardOutput => 0,
        }
    }

    /// Writes data.
    pub(super) fn write(&mut self, data: &[u8]) -> io::Result<()> {
        match self {
            Destination::StandardOutput => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(data).and_then(|()| stdout.flush())
            }
            Destination::File { file, .. } => file.write_all(data),
        }
    }

    /// Sets mode and modification time, and renames the temporary file to its path. With `sync` both are on disk then. Returns path and
    /// reason if the file could not be replaced and was written in place.
    pub(super) fn finish(&mut self, stat: Option<FileStat>, sync: bool) -> Result<Option<(&Path, String)>, Failure> {
        let Destination::File {
            file,
            temporary,
            path,
            done: done @ false,
        } = self
        else {
            return Ok(None);
        };
        let attributes = stat.map_or(Ok(()), |stat| {
            // The pod is not trusted with set-user-ID. The umask applies, as in `cp` and `scp` without -p.
            file.set_permissions(Permissions::from_mode(stat.mode & RWX_BITS & !umask()))?;
            file.set_times(FileTimes::new().set_modified(modification_time(stat)))
        });
        let renamed = match temporary {
            Ok(temporary) => attributes
                .and_then(|()| if sync { file.sync_all() } else { Ok(()) })
                .and_then(|()| fs::rename(temporary, &*path)),
            Err(errno) => Err((*errno).into()),
        };
        if let Err(error) = &renamed
            && Errno::from_io_error(error).is_some_and(in_place::may_help)
            && let Ok(target) = in_place::open(CWD, &*path)
        {
            write_in_place(file, &File::from(target), stat, sync)
                .map_err(|error| local_file_failure(path, "written completely in place, and is damaged now", &error))?;
            return Ok(Some((path, podbridge_files::reason(error))));
        }
        renamed
            .and_then(|()| match path.parent().filter(|_| sync) {
                Some(parent) if parent.as_os_str().is_empty() => File::open(".")?.sync_all(),
                Some(parent) => File::open(parent)?.sync_all(),
                None => Ok(()),
            })
            .map_err(|error| local_file_failure(path, "finished", &error))?;
        *done = true;
        Ok(None)
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        if let Destination::File {
            temporary: Ok(temporary),
            done: false,
            ..
        } = self
        {
            // The copy is incomplete. A failure is ignored: the cause was reported already.
            let _ = fs::remove_file(temporary);
        }
    }
}

/// Writes the content into a file that keeps its mode and owner.
fn write_in_place(file: &File, target: &File, stat: Option<FileStat>, sync: bool) -> io::Result<()> {
    in_place::overwrite(file, target, file.metadata()?.len())?;
    if let Some(stat) = stat {
        // Refused if the file is another user's; its time is then the time of this write.
        let _ = target.set_modified(modification_time(stat));
    }
    if sync { target.sync_all() } else { Ok(()) }
}

/// Returns the modification time of a file in the pod.
fn modification_time(stat: FileStat) -> SystemTime {
    match u64::try_from(stat.mtime_ns) {
        Ok(after) => SystemTime::UNIX_EPOCH + Duration::from_nanos(after),
        Err(_) => SystemTime::UNIX_EPOCH - Duration::from_nanos(stat.mtime_ns.unsigned_abs()),
    }
}

/// Returns the mode bits that new files of this process do not get.
fn umask() -> u32 {
    // A change tells it. No other thread makes a file meanwhile.
    let umask = rustix::process::umask(Mode::RWXU.complement());
    rustix::process::umask(umask);
    umask.as_raw_mode()
}

/// Returns the path that a dangling symbolic link points to, through further links.
fn resolve_dangling_link(mut path: PathBuf) -> PathBuf {
    for _ in 0..SYMBOLIC_LINKS_MAX {
        match fs::read_link(&path) {
            Ok(target) => path = path.parent().unwrap_or(Path::new("")).join(target),
            Err(_) => return path,
        }
    }
    path
}

/// Returns the failure that the path cannot be `what`.
fn local_file_failure(path: &Path, what: &str, error: &io::Error) -> Failure {
    Failure::new(Kind::LocalFile, format!("{} cannot be {what}: {error}", path.display()))
}
