//! The socket of a slot's bridge, beside the kubeconfig of a Zuul build. Several bridges may serve one pod of a build, each with ports of
//! its own; one of them has the socket, and another takes it over when that one dies. `daemon` binds and keeps it.
//!
//! Zuul removes the directory as a whole, so there is no lock and no log, and the socket stays when a bridge ends: clients then know that
//! another bridge may come. A client finds the old socket or the new one, never none.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::error::{Failure, Kind};
use crate::sockets::bind::{BoundSocket, SocketFile, check_peer, connect_at_once, failed_on, listen};

/// A bridge's hold on the socket of a slot.
#[derive(Debug)]
pub(crate) struct SlotSocket {
    /// Name that clients connect to.
    shared: PathBuf,
    /// Name that is this bridge's alone, a hard link to the same socket while this bridge has the shared name.
    own: PathBuf,
    /// Name under which a link is made, before it replaces the shared one in one step.
    new: PathBuf,
}

impl SlotSocket {
    /// Listens, and takes the shared name unless another bridge of this user serves it. `port` tells the bridges of one pod apart.
    pub(crate) fn bind(shared: &Path, port: u16) -> Result<(Self, BoundSocket), Failure> {
        let failed = failed_on(shared);
        // As long as the shared name: a longer one may be too long. A dot tells it from the sockets of the build's pods.
        let name = shared.file_name().unwrap_or_default().to_string_lossy();
        let start = name.get(..10).unwrap_or(&name);
        let socket = Self {
            shared: shared.to_owned(),
            own: shared.with_file_name(format!(".{start}{port:05}")),
            new: shared.with_file_name(format!(".{start}{port:05}~")),
        };
        // Left by the bridge that Zuul started for these ports before.
        for stale in [&socket.own, &socket.new] {
            match fs::remove_file(stale) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
        }
        let listener = listen(&socket.own).map_err(&failed)?;
        match connect_at_once(shared) {
            Ok(stream) => check_peer(&stream, shared)?,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => socket.link().map_err(&failed)?,
        }
        let bound = BoundSocket {
            listener,
            file: SocketFile(None),
        };
        Ok((socket, bound))
    }

    /// Takes the shared name if the bridge that had it has died; returns whether this bridge has it now. If the name is gone altogether,
    /// the build is being removed, and a new file would be in the way.
    pub(crate) fn keep(&self) -> bool {
        let identity = |path: &Path| fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()));
        let (Ok(shared), Ok(own)) = (identity(&self.shared), identity(&self.own)) else {
            return false;
        };
        if shared == own {
            return true;
        }
        match connect_at_once(&self.shared) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => self.link().is_ok(),
            _ => false,
        }
    }

    fn link(&self) -> io::Result<()> {
        if fs::hard_link(&self.own, &self.new).is_err() {
            // A file system without hard links: this bridge can give its only name once.
            return fs::rename(&self.own, &self.shared);
        }
        fs::rename(&self.new, &self.shared).inspect_err(|_| {
            // What is left would only be in the way of the next try.
            let _ = fs::remove_file(&self.new);
        })
    }
}

/// Returns the sockets of the pods of a build that are in this directory, dead ones included.
pub(crate) fn slot_sockets(directory: &Path) -> io::Result<Vec<PathBuf>> {
    use std::os::unix::fs::FileTypeExt as _;

    let mut sockets = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let is_own_name = entry.file_name().as_encoded_bytes().starts_with(b".");
        if !is_own_name && entry.file_type().is_ok_and(|found| found.is_socket()) {
            sockets.push(entry.path());
        }
    }
    sockets.sort();
    Ok(sockets)
}

/// Makes the failure of a slot whose bridge is gone for good.
pub(crate) fn abandoned(socket: &Path) -> Failure {
    Failure::new(
        Kind::Bridge,
        format!(
            "the bridge on {} has ended, and no `kubectl port-forward` of Zuul runs that would start it again; the build is over",
            socket.display()
        ),
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;

    /// Returns which of the listeners answers on the shared name.
    fn served_by(shared: &Path, listeners: &[&UnixListener]) -> Option<usize> {
        let _client = UnixStream::connect(shared).ok()?;
        listeners.iter().position(|listener| listener.accept().is_ok())
    }

    #[test]
    fn the_next_bridge_takes_the_socket_over() {
        let directory = tempfile::tempdir().unwrap();
        let shared = directory.path().join("0199756f54f43fe8");
        let (first, one) = SlotSocket::bind(&shared, 1).unwrap();
        let (second, two) = SlotSocket::bind(&shared, 65535).unwrap();
        assert_eq!(served_by(&shared, &[&one.listener, &two.listener]), Some(0));
        assert!(first.keep());
        assert!(!second.keep());
        let two = two.listener;
        // The queue holds the clients that only looked whether a bridge serves.
        while one.listener.accept().is_ok() {}
        drop(one);
        assert!(second.keep());
        assert_eq!(served_by(&shared, &[&two]), Some(0));
        // Zuul starts the first one again.
        let (first, _one) = SlotSocket::bind(&shared, 1).unwrap();
        assert!(!first.keep());
        assert!(second.keep());
        assert_eq!(slot_sockets(directory.path()).unwrap(), std::slice::from_ref(&shared));
        // The end of the build.
        drop(two);
        fs::remove_file(&shared).unwrap();
        assert!(!first.keep());
        assert!(!shared.exists());
    }

    /// The bridge that has the socket serves as many clients as it can, and its queue is full.
    #[test]
    fn a_full_queue_of_the_other_bridge_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let shared = directory.path().join("0199756f54f43fe8");
        let (_first, one) = SlotSocket::bind(&shared, 1).unwrap();
        rustix::net::listen(&one.listener, 0).unwrap();
        let _client = UnixStream::connect(&shared).unwrap();
        assert_eq!(connect_at_once(&shared).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let (sender, receiver) = mpsc::channel();
        let path = shared.clone();
        thread::spawn(move || {
            let (second, two) = SlotSocket::bind(&path, 2).unwrap();
            sender.send((second.keep(), two)).unwrap();
        });
        let (has, two) = receiver.recv_timeout(Duration::from_secs(10)).expect("nobody waits");
        assert!(!has);
        assert!(two.listener.accept().is_err());
        assert_eq!(connect_at_once(&shared).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
