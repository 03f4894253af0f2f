//! The `Logs` service: forwards what followers find, no faster than their clients read.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::pin::Pin;

use bytes::Bytes;
use podbridge_proto::limits::MAX_CHUNK;
use podbridge_proto::v1::logs_server::Logs as Service;
use podbridge_proto::v1::{FollowEvent, FollowRequest, RemoveRequest, RemoveResponse, WatchEvent, WatchRequest};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::convert;
use crate::logs::{self, Error, Follower, Logs, NameChanges, NameWatcher, Pattern};

/// Events on their way into the connection: a slow client holds so many chunks of its log in memory, and no more.
const IN_FLIGHT: usize = 2;

/// Of a name in a message, beside its bytes: tag and length.
const NAME_COST: usize = 8;

#[derive(Debug)]
pub(crate) struct LogsService(pub(crate) Logs);

fn path(bytes: &Bytes) -> Result<PathBuf, Status> {
    match bytes.starts_with(b"/") && !bytes.contains(&0) {
        true => Ok(PathBuf::from(OsStr::from_bytes(bytes))),
        false => Err(Status::invalid_argument(
            "the path of a log must be absolute and hold no NUL byte",
        )),
    }
}

/// Until the client goes away, which an idle follower must notice too.
async fn forward(mut follower: Follower, events: mpsc::Sender<Result<FollowEvent, Status>>) {
    loop {
        let found = tokio::select! {
            () = events.closed() => return,
            found = follower.next() => found,
        };
        match found {
            Ok((next, event)) => {
                follower = next;
                if events.send(Ok(convert::follow_event(event))).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                // The client sees the error, or has gone.
                let _ = events.send(Err(convert::logs_status(error))).await;
                return;
            }
        }
    }
}

/// As `forward`, for names.
async fn tell(mut watcher: NameWatcher, events: mpsc::Sender<Result<WatchEvent, Status>>) {
    let mut all = true;
    loop {
        let found = tokio::select! {
            () = events.closed() => return,
            found = watcher.next() => found,
        };
        let NameChanges { appeared, gone } = match found {
            Ok((next, names)) => {
                watcher = next;
                names
            }
            Err(error) => {
                let _ = events.send(Err(convert::logs_status(error))).await;
                return;
            }
        };
        for event in pieces(all, appeared, gone) {
            if events.send(Ok(event)).await.is_err() {
                return;
            }
        }
        all = false;
    }
}

/// A directory may have more names than a message holds.
fn pieces(all: bool, appeared: Vec<Bytes>, gone: Vec<Bytes>) -> Vec<WatchEvent> {
    let mut pieces = vec![WatchEvent {
        all,
        ..WatchEvent::default()
    }];
    let mut length = 0;
    let names = appeared.into_iter().map(|name| (name, true));
    for (name, came) in names.chain(gone.into_iter().map(|name| (name, false))) {
        length += name.len() + NAME_COST;
        if length > MAX_CHUNK {
            pieces.push(WatchEvent::default());
            length = name.len() + NAME_COST;
        }
        let piece = pieces.last_mut().expect("there is one");
        match came {
            true => piece.appeared.push(name),
            false => piece.gone.push(name),
        }
    }
    pieces
}

#[tonic::async_trait]
impl Service for LogsService {
    type FollowStream = Pin<Box<dyn Stream<Item = Result<FollowEvent, Status>> + Send>>;

    async fn follow(&self, request: Request<FollowRequest>) -> Result<Response<Self::FollowStream>, Status> {
        let FollowRequest { path: name, position } = request.into_inner();
        let from = position.map(convert::log_position);
        let follower = self.0.follow(path(&name)?, from, MAX_CHUNK);
        let (sender, receiver) = mpsc::channel(IN_FLIGHT);
        tokio::spawn(forward(follower, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchEvent, Status>> + Send>>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let WatchRequest {
            directory,
            prefix,
            suffix,
        } = request.into_inner();
        let pattern = Pattern {
            prefix: prefix[..].into(),
            suffix: suffix[..].into(),
        };
        let watcher = self.0.list(path(&directory)?, pattern);
        let (sender, receiver) = mpsc::channel(IN_FLIGHT);
        tokio::spawn(tell(watcher, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn remove(&self, request: Request<RemoveRequest>) -> Result<Response<RemoveResponse>, Status> {
        let path = path(&request.into_inner().path)?;
        let removed = spawn_blocking(move || logs::remove(&path)).await;
        removed.unwrap_or(Err(Error::Panicked)).map_err(convert::logs_status)?;
        Ok(Response::new(RemoveResponse {}))
    }
}
