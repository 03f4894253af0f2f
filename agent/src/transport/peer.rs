//! Whom the two ends of the agent's Unix socket accept: a process of this user or root, and in this container. Directories are shared
//! between containers (an emptyDir at /tmp) and between pods (a hostPath), and with them the sockets that lie there. `listener` checks
//! who connects, `commands::proxy` checks who listens.

use std::io;
use std::os::fd::AsFd;

use rustix::process::geteuid;

use crate::sys::{container, peer};

/// Reason why a peer is refused; a phrase about the peer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("uid {0}")]
    OtherUser(u32),
    #[error("another container")]
    OtherContainer,
    #[error("an unknown process ({0})")]
    Unknown(#[from] io::Error),
}

/// Which containers may be at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    OwnContainer,
    AnyContainer,
}

/// Checks the process at the other end of a socket.
pub(crate) fn check(socket: impl AsFd, scope: Scope) -> Result<(), Refusal> {
    let peer = peer::of(socket)?;
    if peer.uid != geteuid().as_raw() && peer.uid != 0 {
        return Err(Refusal::OtherUser(peer.uid));
    }
    if scope == Scope::AnyContainer {
        return Ok(());
    }
    // A process in another pid namespace has no pid here: it is in another container.
    let Some(pid) = peer.pid else {
        return Err(Refusal::OtherContainer);
    };
    match container::is_same(pid) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Refusal::OtherContainer),
        // Where /proc is hidden, nothing more can be known here; the bridge still compares what Hello says.
        Err(_) if container::id().is_none() => Ok(()),
        Err(error) => Err(Refusal::Unknown(error)),
    }
}
