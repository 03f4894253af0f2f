//! The agent's Unix socket as a path: its location, a check whether an agent listens, and a bind that lets only this user connect.
//! `commands` calls it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode, flock};
use rustix::process::{geteuid, umask};

use crate::env;

/// Socket of an agent that is part of the pod; its directory is an emptyDir or on a writable root file system.
const WELL_KNOWN: &str = "/run/podbridge/agent.sock";

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot make the directory {}: {source}; choose another path with --socket", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("the directory {} belongs to uid {owner}, not to this agent's uid; choose another path with --socket", path.display())]
    Owner { path: PathBuf, owner: u32 },
    #[error("an agent already serves on {}", .0.display())]
    InUse(PathBuf),
    #[error("cannot listen on {}: {source}; choose another path with --socket", path.display())]
    Bind { path: PathBuf, source: io::Error },
}

/// Returns the path of a serving agent: `wanted`, else the environment's, else the well-known one if it exists, else the private one.
pub(crate) fn path_to_connect(wanted: Option<PathBuf>) -> PathBuf {
    explicit_path(wanted).unwrap_or_else(|| {
        if Path::new(WELL_KNOWN).exists() {
            WELL_KNOWN.into()
        } else {
            private_path()
        }
    })
}

/// Returns the path to serve on: `wanted`, else the environment's, else the well-known one if its directory is writable, else the
/// private one.
pub(crate) fn path_to_serve(wanted: Option<PathBuf>) -> PathBuf {
    explicit_path(wanted).unwrap_or_else(|| {
        let directory = Path::new(WELL_KNOWN)
            .parent()
            .expect("the well-known socket is in a directory");
        match make_directory(directory) {
            Ok(()) if File::create(directory.join(".probe")).is_ok() => {
                // The file is ours: it was made a moment ago.
                let _ = fs::remove_file(directory.join(".probe"));
                WELL_KNOWN.into()
            }
            _ => private_path(),
        }
    })
}

fn explicit_path(wanted: Option<PathBuf>) -> Option<PathBuf> {
    wanted.or_else(|| {
        env::variable(env::AGENT_SOCKET)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    })
}

/// Returns a path in /tmp that only this user has.
fn private_path() -> PathBuf {
    format!("/tmp/.podbridge-{}/agent.sock", geteuid().as_raw()).into()
}

fn make_directory(directory: &Path) -> Result<(), Error> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|source| Error::Directory {
        path: directory.to_owned(),
        source,
    })
}

/// Connects; an error means that no agent listens.
pub(crate) fn connect(path: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(path)
}

/// Makes the socket's directory, checks that it belongs to this user or root, and locks it against other agents that start. The lock
/// ends with the file.
pub(crate) fn lock(socket: &Path) -> Result<File, Error> {
    let directory = socket
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    make_directory(directory)?;
    let failed = |source| Error::Directory {
        path: directory.to_owned(),
        source,
    };
    let owner = fs::symlink_metadata(directory).map_err(failed)?.uid();
    // Root is trusted. A directory of another user may be a trap in /tmp.
    if owner != geteuid().as_raw() && owner != 0 {
        return Err(Error::Owner {
            path: directory.to_owned(),
            owner,
        });
    }
    let mut name = socket.file_name().unwrap_or_default().to_owned();
    name.push(".lock");
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(directory.join(name));
    let lock = lock.map_err(failed)?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|errno| failed(errno.into()))?;
    Ok(lock)
}

/// Listens with mode 0600; replaces a socket that no process listens on. The caller holds the lock, and has started no thread: the umask
/// belongs to the whole process.
pub(crate) fn bind(socket: &Path) -> Result<UnixListener, Error> {
    if connect(socket).is_ok() {
        return Err(Error::InUse(socket.to_owned()));
    }
    let failed = |source| Error::Bind {
        path: socket.to_owned(),
        source,
    };
    match fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    // Another name until it listens, so that a client never sees a socket that refuses it.
    let mut unready = socket.as_os_str().to_owned();
    unready.push(".new");
    let unready = PathBuf::from(unready);
    match fs::remove_file(&unready) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let before = umask(Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(&unready);
    umask(before);
    let listener = listener.map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    fs::rename(&unready, socket).map_err(failed)?;
    Ok(listener)
}
