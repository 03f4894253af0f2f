//! The daemon's socket: bound and removed under the key's lock, stale ones replaced. `launch` and `serve` call it.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use rustix::fs::{FlockOperation, Mode, flock};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use rustix::process::geteuid;

use crate::error::{Failure, Kind};
use crate::random;
use crate::sockets::directory::BridgeFiles;

/// Guard of a key's lock; releases the lock when it is dropped.
#[derive(Debug)]
pub(crate) struct KeyLock(#[allow(dead_code)] File);

/// Time limit to get the lock. Another starter holds it until its bridge listens, which takes far less time.
const LOCK_PATIENCE: Duration = Duration::from_secs(20);
/// Pause between two attempts to get the lock.
const LOCK_INTERVAL: Duration = Duration::from_millis(5);

/// Waits for the key's lock. `Err` if another process holds it for longer than `LOCK_PATIENCE`.
pub(crate) fn lock(files: &BridgeFiles) -> Result<KeyLock, Failure> {
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
            Ok(()) => return Ok(KeyLock(file)),
            Err(Errno::WOULDBLOCK) if begun.elapsed() < LOCK_PATIENCE => std::thread::sleep(LOCK_INTERVAL),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(failed(errno.into())),
        }
    }
}

/// Returns whether a bridge of this user listens. `Err` if a process of another user does.
pub(crate) fn is_served(files: &BridgeFiles) -> Result<bool, Failure> {
    match connect_at_once(&files.socket) {
        Ok(stream) => check_peer(&stream, &files.socket).map(|()| true),
        // Nobody else can listen in the private directory.
        Err(error) => Ok(error.kind() == io::ErrorKind::WouldBlock),
    }
}

/// Connects; `WouldBlock` if a process listens and its queue is full. That process may stand still, so nobody waits for it here: callers
/// hold a lock, or run on the main thread of a bridge.
pub(super) fn connect_at_once(socket: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&stream, &SocketAddrUnix::new(socket)?)?;
    Ok(stream.into())
}

pub(super) fn check_peer(stream: &UnixStream, socket: &Path) -> Result<(), Failure> {
    let own = geteuid();
    match socket_peercred(stream) {
        Ok(peer) if peer.uid == own => Ok(()),
        other => Err(Failure::new(
            Kind::Bridge,
            format!(
                "{} is served by another user ({}); remove it",
                socket.display(),
                other.map_or_else(|errno| errno.to_string(), |peer| format!("uid {}", peer.uid.as_raw()))
            ),
        )),
    }
}

/// Listens with mode 0600, so that only this user connects. The caller holds the lock and knows that no bridge listens. No thread may run
/// yet, because the umask is set.
pub(crate) fn bind(files: &BridgeFiles, _lock: &KeyLock) -> Result<BoundSocket, Failure> {
    bind_locked(files)
}

/// Listens like `bind`, in a daemon whose launcher holds the lock until the daemon reports that it listens.
pub(crate) fn bind_locked(files: &BridgeFiles) -> Result<BoundSocket, Failure> {
    let failed = failed_on(&files.socket);
    match fs::remove_file(&files.socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = listen(&files.socket).map_err(&failed)?;
    let found = fs::symlink_metadata(&files.socket).map_err(&failed)?;
    Ok(BoundSocket {
        listener,
        file: SocketFile(Some((files.clone(), (found.dev(), found.ino())))),
    })
}

/// Makes `alias` another name of a socket in the same directory. The bridge removes its other names when it ends.
pub(crate) fn link(socket: &Path, alias: &Path) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::new(Kind::Bridge, format!("cannot link {}: {error}", alias.display()));
    // The socket itself may be known by another name.
    let socket = fs::canonicalize(socket).map_err(failed)?;
    let temporary = alias.with_extension(HEXLOWER.encode(&random::bytes::<8>()));
    symlink(socket.file_name().unwrap_or_default(), &temporary).map_err(failed)?;
    fs::rename(&temporary, alias).map_err(failed)
}

/// Removes the other names of a socket, which end with it.
fn remove_aliases(socket: &Path) -> io::Result<()> {
    let Some(directory) = socket.parent() else {
        return Ok(());
    };
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if fs::read_link(&path).is_ok_and(|target| Some(target.as_os_str()) == socket.file_name()) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

pub(super) fn failed_on(socket: &Path) -> impl Fn(io::Error) -> Failure + '_ {
    move |error| Failure::new(Kind::Bridge, format!("cannot listen on {}: {error}", socket.display()))
}

/// Mode 0600.
pub(super) fn listen(socket: &Path) -> io::Result<UnixListener> {
    let before = rustix::process::umask(Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(socket);
    rustix::process::umask(before);
    let listener = listener?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A socket that listens.
#[derive(Debug)]
pub(crate) struct BoundSocket {
    pub(crate) listener: UnixListener,
    pub(crate) file: SocketFile,
}

/// File of a socket: which one it is, if it is to be removed when the bridge ends.
#[derive(Debug)]
pub(crate) struct SocketFile(pub(super) Option<(BridgeFiles, (u64, u64))>);

impl SocketFile {
    /// Removes the socket file if it is still ours. A client that comes later starts another bridge.
    pub(crate) fn remove(&self) {
        let Some((files, identity)) = &self.0 else {
            return;
        };
        // Without the lock, another process starts a bridge at this moment, and that bridge replaces the file itself.
        let Ok(_lock) = lock(files) else { return };
        let found = fs::symlink_metadata(&files.socket);
        if found.is_ok_and(|found| (found.dev(), found.ino()) == *identity) {
            // A file that is gone already is as good.
            let _ = fs::remove_file(&files.socket);
            let _ = remove_aliases(&files.socket);
        }
    }
}
