//! The `Files` service: moves chunks between the connection and threads that may block.

use std::pin::Pin;

use podbridge_proto::digest::Hasher;
use podbridge_proto::limits::MAX_CHUNK;
use podbridge_proto::v1::files_server::Files;
use podbridge_proto::v1::get_response::Part as GetPart;
use podbridge_proto::v1::put_request::Part as PutPart;
use podbridge_proto::v1::{
    GetRequest, GetResponse, GetTrailer, PutRequest, PutResponse, PutTrailer, StatRequest, StatResponse, WriteProgress,
};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::convert;
use super::incoming::{self, IN_FLIGHT, Incoming, commit, location, outcome};
use crate::files::{Chunk, Error, FileReader, Transfers, stat};

#[derive(Debug)]
pub(crate) struct FilesService(pub(crate) Transfers);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Sends a file until its end, or until nobody takes it any more.
fn send(mut source: FileReader, answers: &mpsc::Sender<Result<GetResponse, Status>>) -> Result<(), Error> {
    let send = |part| answers.blocking_send(Ok(GetResponse { part: Some(part) })).is_ok();
    let mut more = send(GetPart::Stat(convert::attributes(source.attributes())));
    while more {
        more = match source.read(MAX_CHUNK)? {
            Chunk::Data(data) => send(GetPart::Data(data)),
            Chunk::Hole(count) => send(GetPart::Hole(count)),
            Chunk::End => break,
        };
    }
    if more {
        let (length, sum) = source.finish();
        let digest = sum.to_vec().into();
        send(GetPart::Trailer(GetTrailer { length, digest }));
    }
    Ok(())
}

#[tonic::async_trait]
impl Files for FilesService {
    type GetStream = Answers<GetResponse>;
    type WriteStream = Answers<WriteProgress>;

    async fn put(&self, request: Request<Streaming<PutRequest>>) -> Result<Response<PutResponse>, Status> {
        let mut messages = request.into_inner();
        let file = Incoming::begin(incoming::header(&mut messages).await?)?;
        let mut trailer = None;
        while let Some(message) = messages.message().await? {
            let more = match message.part {
                Some(PutPart::Data(data)) => file.data(data).await,
                Some(PutPart::Hole(count)) => file.hole(count).await?,
                Some(PutPart::Trailer(last)) => {
                    trailer = Some(last);
                    false
                }
                Some(PutPart::Abandon(_)) => false,
                Some(PutPart::Header(_)) | None => return Err(Status::invalid_argument("put has one header")),
            };
            if !more {
                break;
            }
        }
        let PutTrailer { length, digest } = trailer.clone().unwrap_or_default();
        commit(vec![file.end(trailer).await?]).await?;
        Ok(Response::new(PutResponse { length, digest }))
    }

    async fn write(&self, request: Request<Streaming<PutRequest>>) -> Result<Response<Self::WriteStream>, Status> {
        let transfers = self.0.clone();
        let (answers, receiver) = mpsc::channel(IN_FLIGHT);
        // In a task of its own: a file that is whole gets its name, whether or not the sender still listens.
        tokio::spawn(async move {
            if let Err(status) = incoming::write(request.into_inner(), &answers, &transfers).await {
                let _ = answers.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<Self::GetStream>, Status> {
        let request = request.into_inner();
        let location = location(&request.path, request.root.as_ref())?;
        let hasher = Hasher::new(request.digest());
        let GetRequest { offset, sparse, .. } = request;
        let source = outcome(spawn_blocking(move || FileReader::open(&location, offset, hasher, sparse)).await)?;
        let (answers, receiver) = mpsc::channel(IN_FLIGHT);
        spawn_blocking(move || {
            if let Err(error) = send(source, &answers) {
                // The client sees the error, or has gone.
                let _ = answers.blocking_send(Err(convert::files_status(error)));
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn stat(&self, request: Request<StatRequest>) -> Result<Response<StatResponse>, Status> {
        let StatRequest { path, no_follow, root } = request.into_inner();
        let location = location(&path, root.as_ref())?;
        let found = outcome(spawn_blocking(move || stat(&location, !no_follow)).await)?;
        Ok(Response::new(StatResponse {
            stat: found.map(convert::attributes),
        }))
    }
}
