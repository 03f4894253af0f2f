//! The `Files` service: moves chunks between the connection and threads that may block.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::pin::Pin;

use bytes::Bytes;
use podbridge_proto::limits::MAX_CHUNK;
use podbridge_proto::v1::files_server::Files;
use podbridge_proto::v1::get_response::Part as GetPart;
use podbridge_proto::v1::put_request::Part as PutPart;
use podbridge_proto::v1::{
    GetRequest, GetResponse, GetTrailer, PutHeader, PutRequest, PutResponse, PutTrailer, StatRequest, StatResponse,
};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle, spawn_blocking};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::convert;
use crate::files::{Error, Put, Source, Target, stat};

/// Chunks between connection and disk.
const IN_FLIGHT: usize = 8;

#[derive(Debug)]
pub(crate) struct FilesService;

fn path(bytes: &Bytes) -> Result<PathBuf, Status> {
    match bytes.is_empty() || bytes.contains(&0) {
        true => Err(Status::invalid_argument("the path is empty or holds a NUL byte")),
        false => Ok(PathBuf::from(OsStr::from_bytes(bytes))),
    }
}

fn target(header: PutHeader) -> Result<Target, Status> {
    let user = (!header.user.is_empty()).then_some(header.user);
    Ok(Target {
        path: path(&header.path)?,
        mode: header.mode,
        mtime_ns: header.mtime_ns,
        user,
    })
}

fn outcome<T>(joined: Result<Result<T, Error>, JoinError>) -> Result<T, Status> {
    match joined {
        Ok(result) => result.map_err(convert::files_status),
        Err(_) => Err(Status::internal(
            "the agent failed while it handled the file; this is a bug in podbridge",
        )),
    }
}

/// A file on its way to the disk: chunks go to a thread that may block.
pub(super) struct Incoming {
    pieces: mpsc::Sender<Piece>,
    writing: JoinHandle<Result<Option<Put>, Error>>,
}

/// What follows the header.
enum Piece {
    Data(Bytes),
    End(PutTrailer),
}

impl Incoming {
    pub(super) fn begin(header: PutHeader) -> Result<Self, Status> {
        let target = target(header)?;
        let (pieces, mut queue) = mpsc::channel::<Piece>(IN_FLIGHT);
        let writing = spawn_blocking(move || {
            let mut put = Put::create(target)?;
            while let Some(piece) = queue.blocking_recv() {
                match piece {
                    Piece::Data(data) => put.write(&data)?,
                    Piece::End(PutTrailer { length, sha256 }) => {
                        // A digest of another length is one that differs.
                        put.verify(length, sha256[..].try_into().unwrap_or_default())?;
                        return Ok(Some(put));
                    }
                }
            }
            // The client went away: dropping the Put removes the temporary file.
            Ok(None)
        });
        Ok(Self { pieces, writing })
    }

    /// False if no more is wanted: `end` says why.
    pub(super) async fn data(&self, data: Bytes) -> bool {
        self.pieces.send(Piece::Data(data)).await.is_ok()
    }

    /// The file, verified and not yet in its place.
    pub(super) async fn end(self, trailer: Option<PutTrailer>) -> Result<Put, Status> {
        if let Some(trailer) = trailer {
            // A writer that has given up says why below.
            let _ = self.pieces.send(Piece::End(trailer)).await;
        }
        drop(self.pieces);
        outcome(self.writing.await)?
            .ok_or_else(|| Status::invalid_argument("put ended without a trailer; nothing was changed"))
    }
}

/// Puts verified files in their places, in order.
pub(super) async fn commit(puts: Vec<Put>) -> Result<(), Status> {
    outcome(spawn_blocking(move || puts.into_iter().try_for_each(Put::commit)).await)
}

#[tonic::async_trait]
impl Files for FilesService {
    type GetStream = Pin<Box<dyn Stream<Item = Result<GetResponse, Status>> + Send>>;

    async fn put(&self, request: Request<Streaming<PutRequest>>) -> Result<Response<PutResponse>, Status> {
        let mut messages = request.into_inner();
        let Some(PutRequest {
            part: Some(PutPart::Header(header)),
        }) = messages.message().await?
        else {
            return Err(Status::invalid_argument("put begins with a header"));
        };
        let file = Incoming::begin(header)?;
        let mut trailer = None;
        while let Some(message) = messages.message().await? {
            match message.part {
                Some(PutPart::Data(data)) => {
                    if !file.data(data).await {
                        break;
                    }
                }
                Some(PutPart::Trailer(last)) => {
                    trailer = Some(last);
                    break;
                }
                _ => return Err(Status::invalid_argument("put has one header")),
            }
        }
        let PutTrailer { length, sha256 } = trailer.clone().unwrap_or_default();
        commit(vec![file.end(trailer).await?]).await?;
        Ok(Response::new(PutResponse { length, sha256 }))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<Self::GetStream>, Status> {
        let GetRequest { path: name, offset } = request.into_inner();
        let path = path(&name)?;
        let mut source = outcome(spawn_blocking(move || Source::open(&path, offset)).await)?;
        let (sender, receiver) = mpsc::channel(IN_FLIGHT);
        spawn_blocking(move || {
            let send = |part| sender.blocking_send(Ok(GetResponse { part: Some(part) })).is_ok();
            let mut more = send(GetPart::Stat(convert::attributes(source.attributes())));
            while more {
                more = match source.read(MAX_CHUNK) {
                    Ok(data) if data.is_empty() => {
                        let (length, sha256) = source.finish();
                        send(GetPart::Trailer(GetTrailer {
                            length,
                            sha256: sha256.to_vec().into(),
                        }));
                        return;
                    }
                    Ok(data) => send(GetPart::Data(data)),
                    Err(error) => {
                        // The client sees the error, or has gone.
                        let _ = sender.blocking_send(Err(convert::files_status(error)));
                        return;
                    }
                };
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn stat(&self, request: Request<StatRequest>) -> Result<Response<StatResponse>, Status> {
        let StatRequest { path: name, no_follow } = request.into_inner();
        let path = path(&name)?;
        let found = outcome(spawn_blocking(move || stat(&path, !no_follow)).await)?;
        Ok(Response::new(StatResponse {
            stat: found.map(convert::attributes),
        }))
    }
}
