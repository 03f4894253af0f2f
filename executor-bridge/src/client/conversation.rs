//! A conversation: one request on one connection to a running bridge. Connects, checks that the bridge belongs to this user, and sends the
//! request. Starts no bridge; `bridge_address` does that.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::process::geteuid;
use tokio::net::UnixStream;

use crate::client::connection::{self, Incoming, Outgoing};
use crate::error::{Failure, Kind};
use crate::protocol::request::Request;

/// The two directions of a connection whose request was sent.
#[derive(Debug)]
pub(crate) struct Conversation {
    pub incoming: Incoming,
    pub outgoing: Outgoing,
}

/// Sends a request to a running bridge; `None` if no bridge listens on the socket.
pub(crate) async fn begin_existing(socket: &Path, request: &Request) -> Result<Option<Conversation>, Failure> {
    match connect(socket).await? {
        Some(stream) => send(stream, request, &[]).await.map(Some),
        None => Ok(None),
    }
}

/// Connects to a bridge; `None` if no bridge listens on the socket. `Err` if the bridge belongs to another user.
pub(super) async fn connect(socket: &Path) -> Result<Option<UnixStream>, Failure> {
    let failure = |why: String| Failure::new(Kind::Bridge, format!("the bridge on {} {why}", socket.display()));
    let stream = match UnixStream::connect(socket).await {
        Ok(stream) => stream,
        // ConnectionReset: the bridge died before it accepted the connection.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(failure(format!("cannot be reached: {error}"))),
    };
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == geteuid().as_raw() => Ok(Some(stream)),
        _ => Err(failure("belongs to another user; remove its socket".into())),
    }
}

/// Sends the request, with the file descriptors that the bridge reads or writes itself.
pub(super) async fn send(
    stream: UnixStream,
    request: &Request,
    descriptors: &[BorrowedFd<'_>],
) -> Result<Conversation, Failure> {
    let json = request
        .encode()
        .map_err(|error| Failure::usage(format!("the request cannot be written as JSON: {error}")))?;
    let (incoming, mut outgoing) = connection::split(stream);
    outgoing.request(json, descriptors).await?;
    Ok(Conversation { incoming, outgoing })
}
