//! Which socket is meant by options and environment: where an agent may serve, and where one is looked for. `config` makes a choice,
//! `commands` acts on it.
//!
//! The default sockets are in directories that other users can make first. Another user's directory is passed over, by the agent that
//! serves and by the proxy that looks for it.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use super::socket::{AgentSocket, ConnectError};
use crate::env;

/// Socket of an agent that is part of the pod; its directory is an emptyDir or on a writable root file system.
const WELL_KNOWN: &str = "/run/podbridge/agent.sock";
/// Directories that everybody may write to, for a private directory of this user.
const SHARED_DIRECTORIES: [&str; 3] = ["/tmp", "/var/tmp", "/dev/shm"];

/// Choice of the socket, from options and environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Choice {
    /// This path, whoever shares it.
    Exact(PathBuf),
    /// This path with the container's id in it.
    OfContainer(PathBuf),
    Default,
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
            Self::Default => default_paths()
                .flat_map(|path| [AgentSocket::of_container(&path), AgentSocket::exact(&path)])
                .collect(),
        }
    }

    /// Returns the socket to serve on. The default is the first one that no other user keeps from this one.
    pub(crate) fn to_serve(&self) -> AgentSocket {
        match self {
            Self::Exact(path) => AgentSocket::exact(path),
            Self::OfContainer(path) => AgentSocket::of_container(path),
            Self::Default => {
                let sockets = || default_paths().map(|path| AgentSocket::of_container(&path));
                let usable = sockets().find(AgentSocket::is_usable);
                // Its error names a directory that the user knows.
                usable.or_else(|| sockets().nth(1)).expect("there are several")
            }
        }
    }

    /// Connects to an agent of this user in this container. If none is found, the error is about the last socket, or about an agent that
    /// stands still or is in another container.
    pub(crate) fn connect(&self) -> Result<UnixStream, ConnectError> {
        let mut result = None;
        for socket in self.to_connect() {
            match socket.connect() {
                Ok(stream) => return Ok(stream),
                Err(error) if matches!(result, Some(ConnectError::Refused { .. } | ConnectError::Busy(_))) => {
                    drop(error)
                }
                Err(error) => result = Some(error),
            }
        }
        Err(result.expect("every choice has a socket"))
    }
}

/// Returns the default paths in the order of preference: the well-known one, and those that only this user has.
fn default_paths() -> impl Iterator<Item = PathBuf> {
    let private = SHARED_DIRECTORIES.map(|directory| {
        let own = format!(".podbridge-{}", geteuid().as_raw());
        Path::new(directory).join(own).join("agent.sock")
    });
    [WELL_KNOWN.into()].into_iter().chain(private)
}
