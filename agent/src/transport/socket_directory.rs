//! The directory of the agent's socket. Other users may be able to write there: the kubelet makes volumes that everybody may change. All
//! work is therefore done in the open directory, never through a name that somebody may have exchanged, and no file of another user is
//! opened or believed. Whoever connects, and whoever listens, is checked by `peer`. `socket` calls it.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use podbridge_files::temporary;
use rustix::fs::{
    Access, AtFlags, FileType, FlockOperation, Mode, OFlags, accessat, flock, fstat, openat, renameat, statat, unlinkat,
};
use rustix::io::Errno;

use crate::sys::safe_path::{self, Missing, SafeDirectory, is_trusted};

/// Longest path of a Unix socket that the kernel takes, in bytes (unix(7)).
pub(super) const MAX_SOCKET_PATH: usize = 107;
/// Time limit to get the lock. Another starter holds it until its agent listens, which takes far less time.
const LOCK_PATIENCE: Duration = Duration::from_secs(20);
/// Pause between two attempts to get the lock.
const LOCK_INTERVAL: Duration = Duration::from_millis(5);

/// Device and inode of a socket's file.
pub(super) type FileIdentity = (u64, u64);

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot make the directory {}: {source}; choose another path with --socket", path.display())]
    Make { path: PathBuf, source: io::Error },
    #[error("the directory {} belongs to uid {owner}, not to this agent's uid; choose another path with --socket", path.display())]
    Owner { path: PathBuf, owner: u32 },
    #[error("{} is a symbolic link that another user may have made; choose another path with --socket", .0.display())]
    Link(PathBuf),
    #[error("cannot lock {}: {source}; choose another path with --socket", path.display())]
    Lock { path: PathBuf, source: io::Error },
    #[error("another process of this user has held the lock {} for {} s; end it, or choose another path with --socket", .0.display(), LOCK_PATIENCE.as_secs())]
    Locked(PathBuf),
}

#[derive(Debug)]
pub(super) struct SocketDirectory {
    opened: SafeDirectory,
    path: PathBuf,
}

impl SocketDirectory {
    /// Opens the directory, and makes it for this user alone if it does not exist. `Err` if it belongs to another user.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let opened = SafeDirectory::open(path, Missing::Make).map_err(|error| match error {
            safe_path::Error::Owner { path, owner } => Error::Owner { path, owner },
            safe_path::Error::Link(path) => Error::Link(path),
            safe_path::Error::System(errno) => Error::Make {
                path: path.to_owned(),
                source: errno.into(),
            },
        })?;
        Ok(Self {
            opened,
            path: path.to_owned(),
        })
    }

    /// Tells whether an agent can put a socket with this name here.
    pub(super) fn can_take(&self, name: &Path) -> bool {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let is_writable = match openat(&self.opened, ".", flags, Mode::RUSR | Mode::WUSR) {
            Ok(_) => true,
            // The file system has no files without names.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {
                accessat(&self.opened, ".", Access::WRITE_OK, AtFlags::EACCESS).is_ok()
            }
            Err(_) => false,
        };
        let is_free = match statat(&self.opened, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => is_trusted(stat.st_uid) && FileType::from_raw_mode(stat.st_mode) == FileType::Socket,
            Err(errno) => errno == Errno::NOENT,
        };
        is_writable && is_free
    }

    /// Locks the directory against other agents that start with this lock file. The lock ends with the file. `None`: another user holds
    /// the name, and would hold the lock; two agents that start at once then find each other when they listen.
    pub(super) fn lock(&self, name: &Path) -> Result<Option<File>, Error> {
        let path = self.path.join(name);
        let failed = |errno: Errno| Error::Lock {
            path: path.clone(),
            source: errno.into(),
        };
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&self.opened, name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => File::from(file),
            Err(errno) => {
                return match statat(&self.opened, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(_) => Ok(None),
                    Err(_) => Err(failed(errno)),
                };
            }
        };
        let stat = fstat(&file).map_err(failed)?;
        if !is_trusted(stat.st_uid) || FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Ok(None);
        }
        let begun = Instant::now();
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Some(file)),
                Err(Errno::WOULDBLOCK) if begun.elapsed() < LOCK_PATIENCE => sleep(LOCK_INTERVAL),
                Err(Errno::WOULDBLOCK) => return Err(Error::Locked(path)),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
    }

    /// Listens under this name with mode 0600; replaces what has the name. Returns also the identity of the new file.
    pub(super) fn listen(&self, name: &Path) -> io::Result<(UnixListener, FileIdentity)> {
        // Another name until it listens, so that a client never sees a socket that refuses it.
        let unready = temporary::name(temporary::random_number());
        let unready = Path::new(str::from_utf8(&unready).expect("the name is ASCII"));
        let listener = UnixListener::bind(self.path_of(unready))?;
        let ready = (|| {
            // Other users are refused by their uid as well.
            self.set_private(unready)?;
            listener.set_nonblocking(true)?;
            renameat(&self.opened, unready, &self.opened, name)?;
            self.identity(name).ok_or_else(|| io::ErrorKind::NotFound.into())
        })();
        match ready {
            Ok(identity) => Ok((listener, identity)),
            Err(error) => {
                let _ = unlinkat(&self.opened, unready, AtFlags::empty());
                Err(error)
            }
        }
    }

    fn set_private(&self, name: &Path) -> io::Result<()> {
        let file = open_name(&self.opened, name)?;
        if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::Socket {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mode = Permissions::from_mode(0o600);
        match fs::set_permissions(through_descriptor(&file), mode.clone()) {
            // /proc is hidden.
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.opened.is_guarded() => {
                fs::set_permissions(self.path.join(name), mode)
            }
            result => result,
        }
    }

    /// Returns the identity of the file with this name; `None` if there is none.
    pub(super) fn identity(&self, name: &Path) -> Option<FileIdentity> {
        let stat = statat(&self.opened, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some((stat.st_dev, stat.st_ino))
    }

    /// Removes the file with this name, if there is one. Fails for a directory.
    pub(super) fn remove(&self, name: &Path) {
        let _ = unlinkat(&self.opened, name, AtFlags::empty());
    }

    /// Returns a path to a name in this very directory that is short enough for a Unix socket.
    fn path_of(&self, name: &Path) -> PathBuf {
        let path = self.path.join(name);
        if self.opened.is_guarded() && path.as_os_str().len() <= MAX_SOCKET_PATH {
            return path;
        }
        through_descriptor(&self.opened).join(name)
    }
}

fn open_name(directory: impl AsFd, name: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(directory, name, flags, Mode::empty())
}

/// Returns the path of an open file. It is valid in this process, while the file is open.
pub(super) fn through_descriptor(file: impl AsFd) -> PathBuf {
    Path::new("/proc/self/fd").join(file.as_fd().as_raw_fd().to_string())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, chown, lchown, symlink};

    use super::*;

    const OTHER: u32 = 1000;
    const NAME: &str = "agent.sock";

    /// Makes a volume as the kubelet does: everybody may change it.
    fn volume() -> tempfile::TempDir {
        let volume = tempfile::tempdir().unwrap();
        fs::set_permissions(volume.path(), Permissions::from_mode(0o777)).unwrap();
        volume
    }

    /// What another user puts at a name.
    fn plant(kind: &str, path: &Path, victim: &Path) {
        match kind {
            "file" => fs::write(path, "").unwrap(),
            "link to a file of root" => symlink(victim, path).unwrap(),
            "link to nothing" => symlink(victim.with_extension("made"), path).unwrap(),
            "directory" => fs::create_dir(path).unwrap(),
            "FIFO" => rustix::fs::mknodat(rustix::fs::CWD, path, FileType::Fifo, Mode::RUSR, 0).unwrap(),
            "socket" => drop(UnixListener::bind(path).unwrap()),
            other => panic!("{other}"),
        }
        lchown(path, Some(OTHER), None).unwrap();
    }

    /// Whatever another user has put at the names of lock and socket: nothing outside is changed, the agent never waits for the other
    /// user, and it listens unless the name is a directory. The test needs root.
    #[test]
    fn what_another_user_puts_into_the_volume_is_neither_believed_nor_followed() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        for kind in [
            "file",
            "link to a file of root",
            "link to nothing",
            "directory",
            "FIFO",
            "socket",
        ] {
            let (volume, outside) = (volume(), tempfile::tempdir().unwrap());
            let victim = outside.path().join("victim");
            fs::write(&victim, "secret").unwrap();
            for name in [NAME, "agent.sock.lock", ".probe"] {
                plant(kind, &volume.path().join(name), &victim);
            }
            let directory = SocketDirectory::open(volume.path()).unwrap();
            assert!(!directory.can_take(Path::new(NAME)), "{kind}");
            assert!(directory.can_take(Path::new("other.sock")));
            assert!(
                directory.lock(Path::new("agent.sock.lock")).unwrap().is_none(),
                "{kind}"
            );
            let listening = directory.listen(Path::new(NAME));
            assert_eq!(listening.is_err(), kind == "directory", "{kind}: {listening:?}");
            assert_eq!(fs::read(&victim).unwrap(), b"secret", "{kind}");
            assert_eq!(fs::metadata(&victim).unwrap().mode() & 0o777, 0o644, "{kind}");
            assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1, "{kind}");
            let left = fs::read_dir(volume.path()).unwrap().count();
            assert_eq!(left, 3, "{kind}: no temporary name stays");
        }
    }

    #[test]
    fn a_directory_of_another_user_is_refused() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let volume = volume();
        let path = volume.path().join("own");
        fs::create_dir(&path).unwrap();
        chown(&path, Some(OTHER), None).unwrap();
        assert!(matches!(
            SocketDirectory::open(&path),
            Err(Error::Owner { owner: OTHER, .. })
        ));
    }

    #[test]
    fn the_lock_of_this_user_is_waited_for_and_ends_with_its_holder() {
        let directory = tempfile::tempdir().unwrap();
        let directory = SocketDirectory::open(directory.path()).unwrap();
        let name = Path::new("lock");
        let held = directory.lock(name).unwrap().unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| directory.lock(name).unwrap().is_some());
            assert!(!waiting.is_finished());
            drop(held);
            assert!(waiting.join().unwrap());
        });
    }
}
