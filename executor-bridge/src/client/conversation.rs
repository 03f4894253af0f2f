//! One request on one connection to a bridge that runs: connects, checks whose socket it is, and sends the request.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

use rustix::process::geteuid;
use tokio::net::UnixStream;

use crate::client::connection::{self, Incoming, Outgoing};
use crate::error::{Failure, Kind};
use crate::protocol::request::Request;

/// A connection with its request sent.
#[derive(Debug)]
pub(crate) struct Conversation {
    pub incoming: Incoming,
    pub outgoing: Outgoing,
}

/// Sends a request to a bridge that runs; `None` if none does.
pub(crate) async fn begin_existing(socket: &Path, request: &Request) -> Result<Option<Conversation>, Failure> {
    match connect(socket).await? {
        Some(stream) => send(stream, request, &[]).await.map(Some),
        None => Ok(None),
    }
}

pub(super) async fn connect(socket: &Path) -> Result<Option<UnixStream>, Failure> {
    let failed = |why: String| Failure::new(Kind::Bridge, format!("the bridge on {} {why}", socket.display()));
    let stream = match UnixStream::connect(socket).await {
        Ok(stream) => stream,
        // Reset: it died before it accepted us.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(failed(format!("cannot be reached: {error}"))),
    };
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == geteuid().as_raw() => Ok(Some(stream)),
        _ => Err(failed("belongs to another user; remove its socket".into())),
    }
}

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
