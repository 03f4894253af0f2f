//! The `Logs` service: converts messages and forwards the events of followers and name watchers, no faster than their clients read.

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

/// Capacity of the queue into the connection, in events: the limit of chunks that a slow client keeps in memory.
const MAX_QUEUED_EVENTS: usize = 2;

/// Protobuf overhead per name, in bytes: tag and length.
const NAME_OVERHEAD: usize = 8;

#[derive(Debug)]
pub(crate) struct LogsService(pub(crate) Logs);

/// Checks the path of a log.
fn path(bytes: &Bytes) -> Result<PathBuf, Status> {
    if bytes.starts_with(b"/") && !bytes.contains(&0) {
        Ok(PathBuf::from(OsStr::from_bytes(bytes)))
    } else {
        Err(Status::invalid_argument(
            "the path of a log must be absolute and contain no NUL byte",
        ))
    }
}

/// Forwards events until the client is gone; notices that even while the follower is idle.
async fn forward_events(mut follower: Follower, events: mpsc::Sender<Result<FollowEvent, Status>>) {
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
                // Fails if the client is gone.
                let _ = events.send(Err(convert::logs_status(error))).await;
                return;
            }
        }
    }
}

/// Forwards changes of names, like `forward_events`.
async fn forward_names(mut watcher: NameWatcher, events: mpsc::Sender<Result<WatchEvent, Status>>) {
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
        for event in split(all, appeared, gone) {
            if events.send(Ok(event)).await.is_err() {
                return;
            }
        }
        all = false;
    }
}

/// Splits changes into messages: a directory may have more names than one message can hold.
fn split(all: bool, appeared: Vec<Bytes>, gone: Vec<Bytes>) -> Vec<WatchEvent> {
    let mut messages = vec![WatchEvent {
        all,
        ..WatchEvent::default()
    }];
    let mut length = 0;
    let names = appeared.into_iter().map(|name| (name, true));
    for (name, has_appeared) in names.chain(gone.into_iter().map(|name| (name, false))) {
        length += name.len() + NAME_OVERHEAD;
        if length > MAX_CHUNK {
            messages.push(WatchEvent::default());
            length = name.len() + NAME_OVERHEAD;
        }
        let message = messages.last_mut().expect("it has at least one");
        if has_appeared {
            message.appeared.push(name);
        } else {
            message.gone.push(name);
        }
    }
    messages
}

#[tonic::async_trait]
impl Service for LogsService {
    type FollowStream = Pin<Box<dyn Stream<Item = Result<FollowEvent, Status>> + Send>>;

    async fn follow(&self, request: Request<FollowRequest>) -> Result<Response<Self::FollowStream>, Status> {
        let FollowRequest { path: name, position } = request.into_inner();
        let from = position.map(convert::log_position);
        let follower = self.0.follow(path(&name)?, from, MAX_CHUNK);
        let (sender, receiver) = mpsc::channel(MAX_QUEUED_EVENTS);
        tokio::spawn(forward_events(follower, sender));
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
        let watcher = self.0.watch_names(path(&directory)?, pattern);
        let (sender, receiver) = mpsc::channel(MAX_QUEUED_EVENTS);
        tokio::spawn(forward_names(watcher, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn remove(&self, request: Request<RemoveRequest>) -> Result<Response<RemoveResponse>, Status> {
        let path = path(&request.into_inner().path)?;
        let removed = spawn_blocking(move || logs::remove(&path)).await;
        removed.unwrap_or(Err(Error::Panicked)).map_err(convert::logs_status)?;
        Ok(Response::new(RemoveResponse {}))
    }
}
