//! A file on its way to the disk, for `Files.Put`, `Files.Write` and `Exec.PutAndExec`: chunks go to a thread that may block.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use bytes::Bytes;
use podbridge_proto::digest::Hasher;
use podbridge_proto::limits::MAX_HOLE;
use podbridge_proto::v1::put_request::Part;
use podbridge_proto::v1::{PutHeader, PutRequest, PutResponse, PutTrailer, WriteProgress};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use tonic::{Status, Streaming};

use super::convert;
use crate::files::{Error, Location, Put, Receipt, Target, TransferState, Transfers};

/// Chunks between connection and disk.
pub(super) const IN_FLIGHT: usize = 8;
/// Content that is written between two answers of a Write: half of the smallest window that a sender may have.
const STEP: u64 = 512 * 1024;

pub(super) fn location(path: &Bytes, root: Option<&Bytes>) -> Result<Location, Status> {
    let name = |bytes: &Bytes| match bytes.is_empty() || bytes.contains(&0) {
        true => Err(Status::invalid_argument("the path is empty or holds a NUL byte")),
        false => Ok(PathBuf::from(OsStr::from_bytes(bytes))),
    };
    let root = root.map(name).transpose()?;
    match root.as_ref().is_some_and(|root| !root.is_absolute()) {
        true => Err(Status::invalid_argument("the root is no absolute path")),
        false => Ok(Location {
            root,
            path: name(path)?,
        }),
    }
}

fn target(header: PutHeader) -> Result<Target, Status> {
    Ok(Target {
        location: location(&header.path, header.root.as_ref())?,
        mode: header.mode,
        mtime_ns: header.mtime_ns,
        user: (!header.user.is_empty()).then_some(header.user),
        sync: header.sync,
    })
}

pub(super) fn outcome<T>(joined: Result<Result<T, Error>, JoinError>) -> Result<T, Status> {
    match joined {
        Ok(result) => result.map_err(convert::files_status),
        Err(_) => Err(Status::internal(
            "the agent failed while it handled the file; this is a bug in podbridge",
        )),
    }
}

pub(super) struct Incoming {
    pieces: mpsc::Sender<ContentPart>,
    writing: JoinHandle<Result<Written, Error>>,
    length: watch::Receiver<u64>,
}

/// What follows the header.
enum ContentPart {
    Data(Bytes),
    Hole(u64),
    Trailer(PutTrailer),
}

enum Written {
    Verified(Put),
    /// The pieces ended without a trailer.
    HalfDone(Put),
}

impl Incoming {
    pub(super) fn begin(header: PutHeader) -> Result<Self, Status> {
        let hasher = Hasher::new(header.digest());
        let target = target(header)?;
        Ok(Self::start(move || Put::create(target, hasher), 0))
    }

    fn go_on(put: Put) -> Self {
        let length = put.length();
        Self::start(move || Ok(put), length)
    }

    fn start(put: impl FnOnce() -> Result<Put, Error> + Send + 'static, length: u64) -> Self {
        let (pieces, mut queue) = mpsc::channel::<ContentPart>(IN_FLIGHT);
        let (told, length) = watch::channel(length);
        let writing = spawn_blocking(move || {
            let mut put = put()?;
            while let Some(piece) = queue.blocking_recv() {
                match piece {
                    ContentPart::Data(data) => put.write(&data)?,
                    ContentPart::Hole(count) => put.hole(count),
                    ContentPart::Trailer(PutTrailer { length, digest }) => {
                        // A digest of another length is one that differs.
                        put.verify(length, digest[..].try_into().unwrap_or_default())?;
                        return Ok(Written::Verified(put));
                    }
                }
                told.send_if_modified(|told| {
                    let step = put.length() - *told >= STEP;
                    if step {
                        *told = put.length();
                    }
                    step
                });
            }
            Ok(Written::HalfDone(put))
        });
        Self {
            pieces,
            writing,
            length,
        }
    }

    /// False if no more is wanted: `end` says why.
    pub(super) async fn data(&self, data: Bytes) -> bool {
        self.pieces.send(ContentPart::Data(data)).await.is_ok()
    }

    pub(super) async fn hole(&self, count: u64) -> Result<bool, Status> {
        match count > MAX_HOLE {
            true => Err(Status::invalid_argument("a hole is longer than it may be")),
            false => Ok(self.pieces.send(ContentPart::Hole(count)).await.is_ok()),
        }
    }

    /// The file, verified and not yet in its place.
    pub(super) async fn end(self, trailer: Option<PutTrailer>) -> Result<Put, Status> {
        if let Some(trailer) = trailer {
            // A writer that has given up says why below.
            let _ = self.pieces.send(ContentPart::Trailer(trailer)).await;
        }
        match self.written().await? {
            Written::Verified(put) => Ok(put),
            // Dropping it removes the temporary file.
            Written::HalfDone(_) => Err(Status::invalid_argument(
                "put ended without a trailer; nothing was changed",
            )),
        }
    }

    async fn written(self) -> Result<Written, Status> {
        drop(self.pieces);
        outcome(self.writing.await)
    }
}

/// Puts verified files in their places, in order.
pub(super) async fn commit(puts: Vec<Put>) -> Result<(), Status> {
    outcome(spawn_blocking(move || puts.into_iter().try_for_each(Put::commit)).await)
}

pub(super) async fn header(messages: &mut Streaming<PutRequest>) -> Result<PutHeader, Status> {
    match messages.message().await? {
        Some(PutRequest {
            part: Some(Part::Header(header)),
        }) => Ok(header),
        _ => Err(Status::invalid_argument("put begins with a header")),
    }
}

/// How the stream of a Write ended.
enum StreamEnd {
    Trailer(PutTrailer),
    /// The sender may come again.
    Broken,
    Abandoned,
    /// `Incoming::end` says why.
    Refused,
}

pub(super) type Answers = mpsc::Sender<Result<WriteProgress, Status>>;

/// One Write from its header to its end.
pub(super) async fn write(
    mut messages: Streaming<PutRequest>,
    answers: &Answers,
    transfers: &Transfers,
) -> Result<(), Status> {
    let header = header(&mut messages).await?;
    let id = header.transfer_id[..]
        .try_into()
        .map_err(|_| Status::invalid_argument("transfer_id must have 16 bytes"))?;
    let wanted = target(header.clone())?;
    let (turn, begun) = transfers.begin(id).await;
    let mut file = match begun {
        TransferState::New => Incoming::begin(header)?,
        TransferState::HalfDone(put) if *put.target() == wanted => Incoming::go_on(put),
        TransferState::HalfDone(put) => {
            turn.keep(put);
            return Err(Status::invalid_argument("transfer_id names another transfer"));
        }
        TransferState::Completed(receipt) => {
            tell(answers, done(receipt)).await;
            return Ok(());
        }
    };
    let length = *file.length.borrow();
    tell(answers, WriteProgress { length, done: None }).await;
    let end = loop {
        tokio::select! {
            message = messages.message() => match message {
                Ok(Some(PutRequest { part })) => match part {
                    Some(Part::Data(data)) => if !file.data(data).await {
                        break StreamEnd::Refused;
                    }
                    Some(Part::Hole(count)) => if !file.hole(count).await? {
                        break StreamEnd::Refused;
                    }
                    Some(Part::Trailer(trailer)) => break StreamEnd::Trailer(trailer),
                    Some(Part::Abandon(_)) => break StreamEnd::Abandoned,
                    Some(Part::Header(_)) | None => return Err(Status::invalid_argument("put has one header")),
                },
                // Also an end without a trailer: who gives up says so.
                Ok(None) | Err(_) => break StreamEnd::Broken,
            },
            () = turn.over() => break StreamEnd::Broken,
            Ok(()) = file.length.changed() => {
                let length = *file.length.borrow_and_update();
                // One that finds no room is made up for by the next; there is room for a small window's.
                let _ = answers.try_send(Ok(WriteProgress { length, done: None }));
            }
        }
    };
    match end {
        StreamEnd::Abandoned => file.written().await.map(drop),
        StreamEnd::Broken => match file.written().await {
            Ok(Written::HalfDone(put)) => {
                turn.keep(put);
                Ok(())
            }
            other => other.map(drop),
        },
        StreamEnd::Refused => file.end(None).await.map(drop),
        StreamEnd::Trailer(trailer) => {
            let put = file.end(Some(trailer.clone())).await?;
            commit(vec![put]).await?;
            let receipt = Receipt {
                length: trailer.length,
                // It was compared with the file's.
                sum: trailer.digest[..].try_into().unwrap_or_default(),
            };
            turn.complete(receipt);
            tell(answers, done(receipt)).await;
            Ok(())
        }
    }
}

fn done(receipt: Receipt) -> WriteProgress {
    WriteProgress {
        length: receipt.length,
        done: Some(PutResponse {
            length: receipt.length,
            digest: receipt.sum.to_vec().into(),
        }),
    }
}

async fn tell(answers: &Answers, progress: WriteProgress) {
    // A sender that has gone may ask again.
    let _ = answers.send(Ok(progress)).await;
}
