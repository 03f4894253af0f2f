//! The agent's Unix socket as a path: its location, a check whether an agent listens, and a bind that lets only this user connect.
//! `commands` calls it.
//!
//! Containers share directories, so the path of a socket names its container unless the user chose the path. A task may clean /tmp while
//! the agent runs, so the agent also listens on an abstract socket, which no file represents: the network namespace holds it, and its name
//! is made of user, container and path. `peer` checks both ends in any case.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt as _};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::process::geteuid;

use super::peer::{self, Refusal, Scope};
use crate::env;
use crate::sys::container;

/// Socket of an agent that is part of the pod; its directory is an emptyDir or on a writable root file system.
const WELL_KNOWN: &str = "/run/podbridge/agent.sock";
/// Longest path of a Unix socket that the kernel takes, in bytes (unix(7)).
const MAX_SOCKET_PATH: usize = 107;

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

/// Why there is no connection to an agent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("no agent answers on {}: {source}; start one with `podbridge-agent serve`, or use --start", path.display())]
    NoAgent { path: PathBuf, source: io::Error },
    #[error("the agent on {} was started by {refusal}, so it is not used; choose another path for this container with --socket or PODBRIDGE_AGENT_SOCKET", path.display())]
    Refused { path: PathBuf, refusal: Refusal },
}

/// Choice of the socket, from options and environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Choice {
    /// This path, whoever shares it.
    Exact(PathBuf),
    /// This path with the container's id in it.
    OfContainer(PathBuf),
    Default,
}

/// One socket of an agent, and the rules for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AgentSocket {
    pub(crate) path: PathBuf,
    /// Path without the container's id: a prefix of the sockets of other containers, and of the lock that they share. `None`: the user
    /// chose the path.
    base: Option<PathBuf>,
}

impl Choice {
    /// Chooses the path: the one of the option, else that of the environment.
    pub(crate) fn new(exact: Option<PathBuf>, of_container: Option<PathBuf>) -> Self {
        let from_environment = || env::variable(env::AGENT_SOCKET).filter(|value| !value.is_empty());
        match (exact, of_container) {
            (Some(path), _) => Self::Exact(path),
            (None, Some(path)) => Self::OfContainer(path),
            (None, None) => from_environment().map_or(Self::Default, |path| Self::Exact(path.into())),
        }
    }

    /// Returns the sockets at which a serving agent may be, in the order of preference. An agent of an older release serves at the
    /// default paths without an id.
    fn to_connect(&self) -> Vec<AgentSocket> {
        match self {
            Self::Exact(path) => vec![AgentSocket::exact(path)],
            Self::OfContainer(path) => vec![AgentSocket::of_container(path)],
            Self::Default => [WELL_KNOWN.into(), private_path()]
                .iter()
                .flat_map(|path| [AgentSocket::of_container(path), AgentSocket::exact(path)])
                .collect(),
        }
    }

    /// Returns the socket to serve on. The default is the well-known one if its directory is writable, else the private one.
    pub(crate) fn to_serve(&self) -> AgentSocket {
        match self {
            Self::Exact(path) => AgentSocket::exact(path),
            Self::OfContainer(path) => AgentSocket::of_container(path),
            Self::Default => AgentSocket::of_container(&default_path()),
        }
    }

    /// Connects to an agent of this user in this container. If none is found, the error is about the last socket, or about an agent of
    /// another container.
    pub(crate) fn connect(&self) -> Result<UnixStream, ConnectError> {
        let mut result = None;
        for socket in self.to_connect() {
            match socket.connect() {
                Ok(stream) => return Ok(stream),
                Err(error) if matches!(result, Some(ConnectError::Refused { .. })) => drop(error),
                Err(error) => result = Some(error),
            }
        }
        Err(result.expect("every choice has a socket"))
    }
}

fn default_path() -> PathBuf {
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
}

/// Returns a path in /tmp that only this user has.
fn private_path() -> PathBuf {
    format!("/tmp/.podbridge-{}/agent.sock", geteuid().as_raw()).into()
}

/// Makes a directory for this user alone; it may exist.
pub(crate) fn make_directory(directory: &Path) -> Result<(), Error> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
    made.map_err(|source| Error::Directory {
        path: directory.to_owned(),
        source,
    })
}

impl AgentSocket {
    fn exact(path: &Path) -> Self {
        Self {
            path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            base: None,
        }
    }

    fn of_container(base: &Path) -> Self {
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
        let parent = self.path.parent();
        parent
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."))
    }

    /// Returns the option that tells a process to serve on this socket, with its value.
    pub(crate) fn option(&self) -> (&'static str, &Path) {
        match &self.base {
            Some(base) => ("--container-socket", base),
            None => ("--socket", &self.path),
        }
    }

    /// Returns the address of the abstract socket that belongs to the path in this container. `None` where /proc is hidden.
    fn abstract_address(&self) -> Option<SocketAddr> {
        let name = format!(
            "podbridge-agent/{}/{}/{:016x}",
            geteuid().as_raw(),
            container::id()?,
            fnv1a(self.path.as_os_str().as_bytes())
        );
        SocketAddr::from_abstract_name(name).ok()
    }

    /// Connects, and checks the agent before a byte is sent.
    fn connect(&self) -> Result<UnixStream, ConnectError> {
        let stream = match connect_path(&self.path) {
            Ok(stream) => stream,
            Err(source) => self.connect_abstract().ok_or_else(|| ConnectError::NoAgent {
                path: self.path.clone(),
                source,
            })?,
        };
        match peer::check(&stream, Scope::OwnContainer) {
            Ok(()) => Ok(stream),
            Err(refusal) => Err(ConnectError::Refused {
                path: self.path.clone(),
                refusal,
            }),
        }
    }

    /// Connects to the abstract socket. Any process may have taken its name: then there is no agent.
    fn connect_abstract(&self) -> Option<UnixStream> {
        let stream = UnixStream::connect_addr(&self.abstract_address()?).ok()?;
        peer::check(&stream, Scope::OwnContainer).ok()?;
        Some(stream)
    }

    /// Makes the socket's directory, checks that it belongs to this user or root, and locks it against other agents that start. The lock
    /// ends with the file.
    pub(crate) fn lock(&self) -> Result<File, Error> {
        let directory = self.directory();
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
        let named = self.base.as_ref().unwrap_or(&self.path);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(with_suffix(named, ".lock"));
        let lock = lock.map_err(failed)?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|errno| failed(errno.into()))?;
        Ok(lock)
    }

    /// Listens on the path and on the abstract socket. The caller holds the lock.
    pub(crate) fn bind(self) -> Result<BoundSocket, Error> {
        if self.connect().is_ok() {
            return Err(Error::InUse(self.path));
        }
        self.remove_stale();
        let (file, identity) = self.bind_path()?;
        let abstract_listener = self.abstract_address().and_then(|address| {
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
        if connect_path(&self.path).is_ok() {
            return Err(Error::InUse(self.path.clone()));
        }
        // Another name until it listens, so that a client never sees a socket that refuses it.
        let unready = with_suffix(&self.path, ".new");
        let bound = remove_if_there(&self.path)
            .and_then(|()| remove_if_there(&unready))
            .and_then(|()| with_short_path(&unready, |path| UnixListener::bind(path)))
            .and_then(|listener| {
                // Other users are refused by their uid as well.
                fs::set_permissions(&unready, fs::Permissions::from_mode(0o600))?;
                listener.set_nonblocking(true)?;
                fs::rename(&unready, &self.path)?;
                let identity = file_identity(&self.path).ok_or(io::ErrorKind::NotFound)?;
                Ok((listener, identity))
            });
        bound.map_err(|source| Error::Bind {
            path: self.path.clone(),
            source,
        })
    }

    /// Removes the sockets of other containers of this node in which no agent lives any more. In a directory that outlives containers
    /// they would gather.
    fn remove_stale(&self) {
        let Some(base) = &self.base else { return };
        let (Some(stem), Ok(entries)) = (base.file_stem(), fs::read_dir(self.directory())) else {
            return;
        };
        let beginning = format!("{}-{}", stem.to_string_lossy(), container::id_prefix());
        for entry in entries.flatten() {
            let is_socket = entry.file_name().to_string_lossy().starts_with(&beginning);
            let refused = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
            if is_socket && connect_path(&entry.path()).is_err_and(|error| refused(&error)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// Device and inode of a socket's file.
type FileIdentity = (u64, u64);

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
            let _ = fs::remove_file(self.path());
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

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
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

fn connect_path(path: &Path) -> io::Result<UnixStream> {
    with_short_path(path, |path| UnixStream::connect(path))
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
    action(
        &Path::new("/proc/self/fd")
            .join(directory.as_raw_fd().to_string())
            .join(name),
    )
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
        let choice = Choice::OfContainer(directory.path().join("own/agent.sock"));
        let socket = choice.to_serve();
        drop(socket.lock().unwrap());
        let bound = socket.clone().bind().unwrap();
        assert!(bound.path.restore().unwrap().is_none());
        fs::remove_dir_all(socket.directory()).unwrap();
        assert!(choice.connect().is_ok(), "the abstract socket answers");
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
