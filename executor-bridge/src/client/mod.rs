//! The client's side of the client protocol, for the command line: finds or starts the bridge and speaks with it.

mod connection;

use std::io;
use std::path::Path;

use rustix::process::geteuid;
use tokio::net::UnixStream;

pub(crate) use connection::{Incoming, Message, Outgoing};

use crate::daemon;
use crate::error::{Failure, Kind};
use crate::place::Directory;
use crate::protocol::request::Request;
use crate::protocol::target::Identified;

/// Bridges that die under a request before they have read it, until we give up.
const ATTEMPTS: usize = 3;

/// A connection with its request sent.
#[derive(Debug)]
pub(crate) struct Conversation {
    pub incoming: Incoming,
    pub outgoing: Outgoing,
}

/// Sends a request to the target's bridge, which is started if there is none.
pub(crate) async fn begin(
    target: &Identified,
    options: daemon::Options,
    request: &Request,
) -> Result<Conversation, Failure> {
    let socket = Directory::open()?.files(&target.key)?.socket;
    let mut attempt = 1;
    loop {
        let stream = match connect(&socket).await? {
            Some(stream) => Ok(stream),
            None => start(target, options).await,
        };
        let sent = match stream {
            Ok(stream) => send(stream, request).await,
            Err(failure) => Err(failure),
        };
        match sent {
            // A dying bridge did not begin, or did not read all of it: nothing ran.
            Err(failure) if failure.kind == Kind::Bridge && attempt < ATTEMPTS => attempt += 1,
            sent => return sent,
        }
    }
}

async fn start(target: &Identified, options: daemon::Options) -> Result<UnixStream, Failure> {
    let json = serde_json::to_vec(&target.target)
        .map_err(|error| Failure::usage(format!("the target cannot be written as JSON: {error}")))?;
    let socket = daemon::launch(target, &json, options)?;
    connect(&socket).await?.ok_or_else(|| {
        Failure::new(
            Kind::Bridge,
            format!(
                "the bridge on {} ended at once; see its log beside it",
                socket.display()
            ),
        )
    })
}

/// Sends a request to a bridge that runs; `None` if none does.
pub(crate) async fn begin_existing(socket: &Path, request: &Request) -> Result<Option<Conversation>, Failure> {
    match connect(socket).await? {
        Some(stream) => send(stream, request).await.map(Some),
        None => Ok(None),
    }
}

async fn connect(socket: &Path) -> Result<Option<UnixStream>, Failure> {
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

async fn send(stream: UnixStream, request: &Request) -> Result<Conversation, Failure> {
    let json = request
        .encode()
        .map_err(|error| Failure::usage(format!("the request cannot be written as JSON: {error}")))?;
    let (incoming, mut outgoing) = connection::split(stream);
    outgoing.request(json).await?;
    Ok(Conversation { incoming, outgoing })
}
