//! The daemon's socket: bound and removed under the key's lock, stale ones replaced. `launch` and `serve` call it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, flock};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::process::geteuid;

use crate::error::{Failure, Kind};
use crate::place::Files;

/// The key's lock; dropping it lets go.
#[derive(Debug)]
pub(super) struct Lock(#[allow(dead_code)] File);

/// Another starter holds it for as long as a bridge needs to listen: far below this.
const LOCK_PATIENCE: Duration = Duration::from_secs(20);
const LOCK_INTERVAL: Duration = Duration::from_millis(5);

pub(super) fn lock(files: &Files) -> Result<Lock, Failure> {
    let failed = |error: io::Error| {
        Failure::new(
            Kind::Bridge,
            format!("cannot lock {}: {error}", files.socket.with_extension("lock").display()),
        )
    };
    let file = files.lock_file().map_err(failed)?;
    let begun = Instant::now();
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Lock(file)),
            Err(Errno::WOULDBLOCK) if begun.elapsed() < LOCK_PATIENCE => std::thread::sleep(LOCK_INTERVAL),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(failed(errno.into())),
        }
    }
}

/// Whether a bridge of this user listens.
pub(super) fn is_served(files: &Files) -> Result<bool, Failure> {
    match UnixStream::connect(&files.socket) {
        Ok(stream) => check_peer(&stream, files).map(|()| true),
        Err(_) => Ok(false),
    }
}

fn check_peer(stream: &UnixStream, files: &Files) -> Result<(), Failure> {
    let own = geteuid();
    match socket_peercred(stream) {
        Ok(peer) if peer.uid == own => Ok(()),
        other => Err(Failure::new(
            Kind::Bridge,
            format!(
                "{} is served by another user ({}); remove it",
                files.socket.display(),
                other.map_or_else(|errno| errno.to_string(), |peer| format!("uid {}", peer.uid.as_raw()))
            ),
        )),
    }
}

/// Listens, mode 0600. The caller holds the lock and knows that nobody listens. Before any thread: it sets the umask.
pub(super) fn bind(files: &Files, _lock: &Lock) -> Result<Bound, Failure> {
    bind_locked(files)
}

/// As `bind`, for a daemon whose launcher holds the lock until the daemon says that it listens.
pub(super) fn bind_locked(files: &Files) -> Result<Bound, Failure> {
    let failed = |error: io::Error| {
        Failure::new(
            Kind::Bridge,
            format!("cannot listen on {}: {error}", files.socket.display()),
        )
    };
    match fs::remove_file(&files.socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let before = rustix::process::umask(Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(&files.socket);
    rustix::process::umask(before);
    let listener = listener.map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let found = fs::symlink_metadata(&files.socket).map_err(failed)?;
    Ok(Bound {
        listener,
        files: files.clone(),
        identity: (found.dev(), found.ino()),
    })
}

/// A socket that listens, and which file it is.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) listener: UnixListener,
    pub(super) files: Files,
    identity: (u64, u64),
}

impl Bound {
    /// Removes the socket file if it is still ours. A client that comes later starts another bridge.
    pub(super) fn remove(&self) {
        // A lock that cannot be had means that somebody starts a bridge this moment; they replace the file themselves.
        let Ok(_lock) = lock(&self.files) else { return };
        let found = fs::symlink_metadata(&self.files.socket);
        if found.is_ok_and(|found| (found.dev(), found.ino()) == self.identity) {
            // Gone already is as good.
            let _ = fs::remove_file(&self.files.socket);
        }
    }
}
