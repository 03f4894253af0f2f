//! The local link: the Unix socket of an agent on this host.

use std::io;
use std::time::Duration;

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
