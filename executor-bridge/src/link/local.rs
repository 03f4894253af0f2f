//! The local link: the Unix socket of an agent on this host. Whoever listens there is checked before the first byte.

use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::process::geteuid;
use tokio::net::UnixStream;

use crate::error::{Failure, Kind};
use crate::link::{DialedLink, Handle, LinkName, MonitoredPipe};
use crate::protocol::target::Target;

pub(super) async fn dial(target: &Target, timeout: Duration) -> Result<DialedLink, Failure> {
    // `Target::check` has refused a local target without a socket.
    let socket = target.agent_socket.clone().unwrap_or_default();
    let shown = socket.display();
    let stream = match tokio::time::timeout(timeout, UnixStream::connect(&socket)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            let why = match error.kind() {
                io::ErrorKind::NotFound => "there is no such socket".into(),
                io::ErrorKind::ConnectionRefused => "no process listens on it".into(),
                _ => error.to_string(),
            };
            return Err(Failure::new(
                Kind::Agent,
                format!("no agent answers on {shown}: {why}; start one with `podbridge-agent serve --socket {shown}`"),
            ));
        }
        Err(_) => {
            return Err(Failure::new(
                Kind::Timeout,
                format!(
                    "the agent on {shown} did not accept a connection within {} s",
                    timeout.as_secs()
                ),
            ));
        }
    };
    check_peer(&stream, &socket)?;
    let failed = |error: io::Error| Failure::new(Kind::Internal, format!("cannot watch the link: {error}"));
    let duplicate = rustix::io::fcntl_dupfd_cloexec(&stream, 3).map_err(|errno| failed(errno.into()))?;
    let handle = Handle::new(Some(duplicate));
    Ok(DialedLink {
        pipe: Box::new(MonitoredPipe::new(stream, handle.clone())),
        handle,
        container: None,
        name: LinkName::Local,
    })
}

/// Refuses an agent that neither this user nor root has started: it would get every command, and what commands read.
fn check_peer(stream: &UnixStream, socket: &Path) -> Result<(), Failure> {
    let failed = |why: String| {
        Err(Failure::new(
            Kind::Agent,
            format!("the agent on {} {why}", socket.display()),
        ))
    };
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == 0 || peer.uid() == geteuid().as_raw() => Ok(()),
        Ok(peer) => failed(format!(
            "was started by uid {}, so it is not used; remove its socket",
            peer.uid()
        )),
        Err(error) => failed(format!("cannot be checked: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_an_agent_of_this_user_or_of_root_is_used() {
        if !geteuid().is_root() {
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent.sock");
        let listen = |uid: u32| {
            let path = path.clone();
            // The kernel records who called listen(2). Only this thread becomes another user.
            let thread = std::thread::spawn(move || {
                let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
                let uid = rustix::process::Uid::from_raw(uid);
                rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
                rustix::net::listen(&listener, 8).unwrap();
                listener
            });
            thread.join().unwrap()
        };
        for (uid, expected) in [(0, true), (1000, false)] {
            let _listener = listen(uid);
            let stream = UnixStream::connect(&path).await.unwrap();
            let checked = check_peer(&stream, &path);
            assert_eq!(checked.is_ok(), expected, "{checked:?}");
            if let Err(failure) = checked {
                assert!(failure.to_string().contains("was started by uid 1000"), "{failure}");
            }
            std::fs::remove_file(&path).unwrap();
        }
    }
}
