//! The agent's Unix socket as a path: a check whether an agent listens, and a bind that lets only this user connect.
//! `choice` says which path, `commands` binds.
//!
//! Containers share directories, so the path of a socket names its container unless the user chose the path. A task may clean /tmp while
//! the agent runs, so the agent also listens on an abstract socket, which no file represents: the network namespace holds it, and its name
//! is made of user, container and path. `peer` checks both ends in any case.

use std::fs::{self, File};
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, statat};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use rustix::process::geteuid;

use super::peer::{self, Refusal, Scope};
use super::socket_directory::{self, FileIdentity, MAX_SOCKET_PATH, SocketDirectory, through_descriptor};
use crate::sys::container;
use crate::sys::safe_path::{self, Missing, SafeDirectory, is_trusted};

/// Time limit for a place in the queue of an agent that has thousands of new connections. A bridge waits longer for the whole dial.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Directory(#[from] socket_directory::Error),
    #[error("an agent already serves on {}", .0.display())]
    InUse(PathBuf),
    #[error("cannot listen on {}: {source}; choose another path with --socket", path.display())]
    Bind { path: PathBuf, source: io::Error },
}

/// Why there is no connection to an agent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("no agent answers on {}: {source}; start one with `podbridge-agent serve`, or use --start", path.display())]
    NoAgent { path: PathBuf, source: io::Error },
    #[error("the agent on {} has not accepted a connection for {} s, so it stands still or is overloaded; look at its process, end it if it does not continue, and try again", .0.display(), QUEUE_TIMEOUT.as_secs())]
    Busy(PathBuf),
    #[error("the agent on {} was started by {refusal}, so it is not used; choose another path for this container with --socket or PODBRIDGE_AGENT_SOCKET", path.display())]
    Refused { path: PathBuf, refusal: Refusal },
}

/// One socket of an agent, and the rules for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AgentSocket {
    pub(crate) path: PathBuf,
    /// Path without the container's id: a prefix of the sockets of other containers, and of the lock that they share. `None`: the user
    /// chose the path.
    base: Option<PathBuf>,
}

impl AgentSocket {
    pub(super) fn exact(path: &Path) -> Self {
        Self {
            path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            base: None,
        }
    }

    pub(super) fn of_container(base: &Path) -> Self {
        let base = std::path::absolute(base).unwrap_or_else(|_| base.to_owned());
        // Where /proc is hidden, the peers cannot be told apart either.
        let id = container::id().unwrap_or_default();
        Self {
            path: with_id(&base, &id),
            base: Some(base),
        }
    }

    /// Returns which containers may connect to the socket's path. Whoever shares a path on purpose chooses it.
    fn scope(&self) -> Scope {
        match self.base {
            Some(_) => Scope::OwnContainer,
            None => Scope::AnyContainer,
        }
    }

    fn directory(&self) -> &Path {
        directory_of(&self.path)
    }

    /// Returns the option that tells a process to serve on this socket, with its value.
    pub(crate) fn option(&self) -> (&'static str, &Path) {
        match &self.base {
            Some(base) => ("--container-socket", base),
            None => ("--socket", &self.path),
        }
    }

    /// Returns the name of the abstract socket that belongs to the path in this container. `None` where /proc is hidden.
    fn abstract_name(&self) -> Option<String> {
        Some(format!(
            "podbridge-agent/{}/{}/{:016x}",
            geteuid().as_raw(),
            container::id()?,
            fnv1a(self.path.as_os_str().as_bytes())
        ))
    }

    /// Connects, and checks the agent before a byte is sent.
    pub(super) fn connect(&self) -> Result<UnixStream, ConnectError> {
        let connected = connect_path(&self.path).map_err(|source| match source.kind() {
            io::ErrorKind::TimedOut => ConnectError::Busy(self.path.clone()),
            _ => ConnectError::NoAgent {
                path: self.path.clone(),
                source,
            },
        });
        let checked = connected.and_then(|stream| match peer::check(&stream, Scope::OwnContainer) {
            Ok(()) => Ok(stream),
            Err(refusal) => Err(ConnectError::Refused {
                path: self.path.clone(),
                refusal,
            }),
        });
        // The file may be gone, or another user may have put a socket in its place.
        checked.or_else(|error| self.connect_abstract().ok_or(error))
    }

    /// Connects to the abstract socket. Any process may have taken its name: then there is no agent. A full queue is not waited for,
    /// because nothing tells whose queue it is.
    fn connect_abstract(&self) -> Option<UnixStream> {
        let address = SocketAddrUnix::new_abstract_name(self.abstract_name()?.as_bytes()).ok()?;
        let stream = connect_at_once(&address).ok()?;
        peer::check(&stream, Scope::OwnContainer).ok()?;
        Some(stream)
    }

    fn name(&self) -> &Path {
        Path::new(self.path.file_name().unwrap_or_default())
    }

    /// Tells whether an agent can serve here: the directory is writable, and no other user has put something in the way.
    pub(super) fn is_usable(&self) -> bool {
        SocketDirectory::open(self.directory()).is_ok_and(|directory| directory.can_take(self.name()))
    }

    /// Locks the socket's directory against other agents that start; `None`: another user keeps the lock's name. The lock ends with the
    /// file.
    pub(crate) fn lock(&self) -> Result<Option<File>, Error> {
        let named = self.base.as_ref().unwrap_or(&self.path);
        let name = with_suffix(Path::new(named.file_name().unwrap_or_default()), ".lock");
        Ok(SocketDirectory::open(self.directory())?.lock(&name)?)
    }

    /// Listens on the path and on the abstract socket. The caller holds the lock.
    pub(crate) fn bind(self) -> Result<BoundSocket, Error> {
        if matches!(self.connect(), Ok(_) | Err(ConnectError::Busy(_))) {
            return Err(Error::InUse(self.path));
        }
        self.remove_stale();
        let (file, identity) = self.bind_path()?;
        let abstract_listener = self.abstract_name().and_then(|name| {
            let address = SocketAddr::from_abstract_name(name).ok()?;
            let listener = UnixListener::bind_addr(&address).ok()?;
            listener.set_nonblocking(true).ok()?;
            Some(listener)
        });
        Ok(BoundSocket {
            file,
            abstract_listener,
            scope: self.scope(),
            path: BoundPath {
                socket: self,
                identity: Mutex::new(identity),
            },
        })
    }

    /// Listens on the path with mode 0600; replaces a socket that no process listens on. Returns also the identity of the new file.
    fn bind_path(&self) -> Result<(UnixListener, FileIdentity), Error> {
        if self.connect_file().is_ok() {
            return Err(Error::InUse(self.path.clone()));
        }
        let listening = SocketDirectory::open(self.directory())?.listen(self.name());
        listening.map_err(|source| Error::Bind {
            path: self.path.clone(),
            source,
        })
    }

    /// Connects to the path if this user or root listens there.
    fn connect_file(&self) -> Result<UnixStream, Refusal> {
        let stream = connect_path(&self.path)?;
        peer::check(&stream, Scope::AnyContainer).map(|()| stream)
    }

    /// Removes the sockets of other containers of this node in which no agent lives any more. In a directory that outlives containers
    /// they would gather.
    fn remove_stale(&self) {
        let Some(base) = &self.base else { return };
        let Ok(directory) = SocketDirectory::open(self.directory()) else {
            return;
        };
        let (Some(stem), Ok(entries)) = (base.file_stem(), fs::read_dir(self.directory())) else {
            return;
        };
        let beginning = format!("{}-{}", stem.to_string_lossy(), container::id_prefix());
        for entry in entries.flatten() {
            let is_socket = entry.file_name().to_string_lossy().starts_with(&beginning);
            let refused = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
            if is_socket && connect_path_at_once(&entry.path()).is_err_and(|error| refused(&error)) {
                directory.remove(Path::new(&entry.file_name()));
            }
        }
    }
}

/// The listeners of an agent.
#[derive(Debug)]
pub(crate) struct BoundSocket {
    pub(crate) file: UnixListener,
    /// `None` where /proc is hidden, or another process has taken the name.
    pub(crate) abstract_listener: Option<UnixListener>,
    /// Containers that may connect to the file.
    pub(crate) scope: Scope,
    pub(crate) path: BoundPath,
}

/// The file of a bound socket.
#[derive(Debug)]
pub(crate) struct BoundPath {
    socket: AgentSocket,
    identity: Mutex<FileIdentity>,
}

impl BoundPath {
    pub(crate) fn path(&self) -> &Path {
        &self.socket.path
    }

    /// Returns a new listener if the file, or its directory, was removed. Blocks on the file system.
    pub(crate) fn restore(&self) -> Result<Option<UnixListener>, Error> {
        if self.is_there() {
            return Ok(None);
        }
        let _lock = self.socket.lock()?;
        let (listener, identity) = self.socket.bind_path()?;
        *self.identity.lock().unwrap_or_else(PoisonError::into_inner) = identity;
        Ok(Some(listener))
    }

    /// Removes the file, unless another agent has put its own there.
    pub(crate) fn remove(&self) {
        if self.is_there() {
            // Nothing listens on the socket any more. A stale one would be replaced, so a failure is harmless.
            if let Ok(directory) = SocketDirectory::open(self.socket.directory()) {
                directory.remove(self.socket.name());
            }
        }
    }

    /// Tells whether the file is the one that was bound. Asks the file system once, so it may be called between other work.
    pub(crate) fn is_there(&self) -> bool {
        file_identity(self.path()) == Some(*self.identity.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn file_identity(path: &Path) -> Option<FileIdentity> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Inserts the container's id before the extension of a path.
fn with_id(base: &Path, id: &str) -> PathBuf {
    let mut name = base.file_stem().unwrap_or_default().to_owned();
    name.push("-");
    name.push(id);
    if let Some(extension) = base.extension() {
        name.push(".");
        name.push(extension);
    }
    base.with_file_name(name)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// Connects to a path. `TimedOut`: a process of this user or root listens there, and has not accepted a connection for `QUEUE_TIMEOUT`.
/// Nothing of another user is waited for.
fn connect_path(path: &Path) -> io::Result<UnixStream> {
    // A directory of another user holds whatever that user wants.
    let directory = SafeDirectory::open(directory_of(path), Missing::Refuse).map_err(|error| match error {
        safe_path::Error::System(errno) => errno.into(),
        error => io::Error::new(io::ErrorKind::PermissionDenied, error),
    })?;
    let is_trusted = || {
        let found = statat(
            &directory,
            path.file_name().unwrap_or_default(),
            AtFlags::SYMLINK_NOFOLLOW,
        );
        found.is_ok_and(|found| is_trusted(found.st_uid) && FileType::from_raw_mode(found.st_mode) == FileType::Socket)
    };
    match connect_path_at_once(path) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock && is_trusted() => {
            with_short_path(path, |path| connect_in_turn(&SocketAddrUnix::new(path)?))
        }
        connected => connected,
    }
}

/// Connects to a path; `WouldBlock` if the queue of its listener is full.
fn connect_path_at_once(path: &Path) -> io::Result<UnixStream> {
    with_short_path(path, |path| connect_at_once(&SocketAddrUnix::new(path)?))
}

/// Connects; `WouldBlock` if the queue of the listener is full.
fn connect_at_once(address: &SocketAddrUnix) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&stream, address)?;
    let stream = UnixStream::from(stream);
    stream.set_nonblocking(false)?;
    Ok(stream)
}

/// Connects to a listener whose queue is full. Only a blocking connect has a place among those that wait. `TimedOut` after `QUEUE_TIMEOUT`.
fn connect_in_turn(address: &SocketAddrUnix) -> io::Result<UnixStream> {
    let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // It limits a connect too.
    set_socket_timeout(&stream, Timeout::Send, Some(QUEUE_TIMEOUT))?;
    match rustix::io::retry_on_intr(|| rustix::net::connect(&stream, address)) {
        Err(Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
        connected => connected?,
    }
    set_socket_timeout(&stream, Timeout::Send, None)?;
    Ok(stream.into())
}

fn directory_of(path: &Path) -> &Path {
    let parent = path.parent();
    parent
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// Calls `action` with a path to the same file that is short enough for a Unix socket: a longer one leads through a descriptor of its
/// directory.
fn with_short_path<T>(path: &Path, action: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return action(path);
    };
    if path.as_os_str().len() <= MAX_SOCKET_PATH {
        return action(path);
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory, flags, Mode::empty())?;
    action(&through_descriptor(&directory).join(name))
}

/// Returns the FNV-1a hash of some bytes. It is the same in every release, and needs no strength: the peers are checked.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_containers_id_is_part_of_the_file_name() {
        for (base, expected) in [
            ("/run/podbridge/agent.sock", "/run/podbridge/agent-1a-f0.sock"),
            (
                "/tmp/.podbridge-0/agent-abcd.sock",
                "/tmp/.podbridge-0/agent-abcd-1a-f0.sock",
            ),
            ("/tmp/.podbridge-0/agent", "/tmp/.podbridge-0/agent-1a-f0"),
        ] {
            assert_eq!(with_id(Path::new(base), "1a-f0"), Path::new(expected));
        }
    }

    #[test]
    fn a_socket_works_at_a_path_of_any_length() {
        let directory = tempfile::tempdir().unwrap();
        for length in [20, 60, 100, 200] {
            let deep = directory.path().join("x".repeat(length));
            let socket = AgentSocket::of_container(&deep.join("agent.sock"));
            let _lock = socket.lock().unwrap();
            let bound = socket.clone().bind().unwrap();
            assert!(connect_path(&socket.path).is_ok());
            assert!(matches!(socket.clone().bind(), Err(Error::InUse(_))));
            bound.path.remove();
            assert!(!socket.path.exists());
        }
    }

    #[test]
    fn a_removed_directory_hides_no_agent_and_is_made_again() {
        let directory = tempfile::tempdir().unwrap();
        let socket = AgentSocket::of_container(&directory.path().join("own/agent.sock"));
        drop(socket.lock().unwrap());
        let bound = socket.clone().bind().unwrap();
        assert!(bound.path.restore().unwrap().is_none());
        fs::remove_dir_all(socket.directory()).unwrap();
        assert!(socket.connect().is_ok(), "the abstract socket answers");
        assert!(matches!(socket.clone().bind(), Err(Error::InUse(_))));
        let restored = bound.path.restore().unwrap();
        assert!(restored.is_some() && connect_path(&socket.path).is_ok());
        assert!(bound.path.restore().unwrap().is_none());
    }

    #[test]
    fn sockets_of_ended_containers_are_removed_and_living_ones_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let base = directory.path().join("agent-abcd.sock");
        let of = |id: &str| with_id(&base, &format!("{}{id}", container::id_prefix()));
        drop(UnixListener::bind(of("1")).unwrap());
        let _living = UnixListener::bind(of("2")).unwrap();
        let elsewhere = with_id(&base, "ffffffff-1");
        drop(UnixListener::bind(&elsewhere).unwrap());
        let _bound = AgentSocket::of_container(&base).bind().unwrap();
        assert_eq!(
            [of("1"), of("2"), elsewhere].map(|path| path.exists()),
            [false, true, true]
        );
    }
}
