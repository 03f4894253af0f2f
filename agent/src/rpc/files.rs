//! The `Files` service: converts messages and passes them between the connection and `files`, whose blocking calls it runs on threads
//! that may block.

use std::pin::Pin;

use podbridge_proto::digest::ContentHasher;
use podbridge_proto::v1::files_server::Files;
use podbridge_proto::v1::get_response::Part as GetPart;
use podbridge_proto::v1::put_request::Part as PutPart;
use podbridge_proto::v1::{
    GetRequest, GetResponse, GetTrailer, PutHeader, PutRequest, PutResponse, PutTrailer, StatRequest, StatResponse,
    WriteProgress,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use super::convert;
use crate::files::{
    Chunk, ContentWriter, Error, FileReader, Progress, QueuedPart, ReadAhead, ReadPart, Transfers, commit_all, receive,
    run_blocking, stat,
};

/// Capacity of the queue between `files` and the connection, in answers.
const MAX_QUEUED_ANSWERS: usize = 8;

#[derive(Debug)]
pub(crate) struct FilesService {
    transfers: Transfers,
    read_ahead: ReadAhead,
    ended: watch::Sender<u64>,
}

impl FilesService {
    pub(crate) fn new(transfers: Transfers) -> Self {
        Self {
            transfers,
            read_ahead: ReadAhead::default(),
            ended: watch::Sender::new(0),
        }
    }

    /// Returns the number of transfers that have ended; its receiver wakes whenever one ends.
    pub(crate) fn ended_transfers(&self) -> watch::Receiver<u64> {
        self.ended.subscribe()
    }

    fn counted(&self) -> CountedTransfer {
        CountedTransfer(self.ended.clone())
    }
}

/// Counts a transfer as ended when it is dropped.
struct CountedTransfer(watch::Sender<u64>);

impl Drop for CountedTransfer {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count += 1);
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Returns the message for a part of a file.
fn get_response(queued: QueuedPart) -> Result<GetResponse, Status> {
    let part = match queued.take().map_err(convert::files_status)? {
        ReadPart::Chunk(Chunk::Data(data)) => Some(GetPart::Data(data)),
        ReadPart::Chunk(Chunk::Hole(count)) => Some(GetPart::Hole(count)),
        ReadPart::Chunk(Chunk::End) => None,
        ReadPart::End(length, digest) => Some(GetPart::Trailer(GetTrailer {
            length,
            digest: digest.to_vec().into(),
        })),
    };
    Ok(GetResponse { part })
}

/// Receives the first message of a put.
async fn header(messages: &mut Streaming<PutRequest>) -> Result<PutHeader, Status> {
    match messages.message().await? {
        Some(PutRequest {
            part: Some(PutPart::Header(header)),
        }) => Ok(header),
        _ => Err(Status::invalid_argument("a put begins with a header")),
    }
}

/// Passes one transfer from its header to its end to `files::receive`.
async fn write(
    mut messages: Streaming<PutRequest>,
    answers: &mpsc::Sender<Result<Progress, Status>>,
    transfers: &Transfers,
) -> Result<(), Status> {
    let transfer = convert::transfer(header(&mut messages).await?)?;
    // A stream that fails is the same as one that ends without a trailer: the sender may come again.
    let parts = messages.map_while(|message| message.ok().map(convert::transfer_part));
    let received = receive(transfer, parts, answers, transfers).await;
    received.map_err(convert::files_status)
}

#[tonic::async_trait]
impl Files for FilesService {
    type GetStream = Answers<GetResponse>;
    type WriteStream = Answers<WriteProgress>;

    async fn put(&self, request: Request<Streaming<PutRequest>>) -> Result<Response<PutResponse>, Status> {
        let _counted = self.counted();
        let mut messages = request.into_inner();
        let (target, hasher) = convert::new_file(header(&mut messages).await?)?;
        let file = ContentWriter::create(target, hasher);
        let mut trailer = None;
        while let Some(message) = messages.message().await? {
            let is_wanted = match message.part {
                Some(PutPart::Data(data)) => file.data(data).await,
                Some(PutPart::Hole(count)) => file.hole(count).await,
                Some(PutPart::Trailer(last)) => {
                    trailer = Some(last);
                    false
                }
                Some(PutPart::Abandon(_)) => false,
                Some(PutPart::Header(_)) | None => return Err(convert::files_status(Error::NotOneHeader)),
            };
            if !is_wanted {
                break;
            }
        }
        let put = file.finish(trailer.as_ref().map(convert::trailer)).await;
        let put = put.map_err(convert::files_status)?;
        let committed = commit_all(vec![put]).await.map_err(convert::files_status)?;
        let in_place = convert::in_place(committed.into_iter().flatten().next());
        let PutTrailer { length, digest } = trailer.unwrap_or_default();
        Ok(Response::new(PutResponse {
            length,
            digest,
            in_place,
        }))
    }

    async fn write(&self, request: Request<Streaming<PutRequest>>) -> Result<Response<Self::WriteStream>, Status> {
        let (transfers, counted) = (self.transfers.clone(), self.counted());
        let (answers, receiver) = mpsc::channel(MAX_QUEUED_ANSWERS);
        // A task of its own: a complete file gets its name even if the sender is gone.
        tokio::spawn(async move {
            let _counted = counted;
            if let Err(status) = write(request.into_inner(), &answers, &transfers).await {
                let _ = answers.send(Err(status)).await;
            }
        });
        let answers = ReceiverStream::new(receiver).map(|answer| answer.map(convert::write_progress));
        Ok(Response::new(Box::pin(answers)))
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<Self::GetStream>, Status> {
        let request = request.into_inner();
        let location = convert::location(&request.path, request.root.as_ref())?;
        let hasher = ContentHasher::new(request.digest());
        let GetRequest { offset, sparse, .. } = request;
        let reader = run_blocking(move || FileReader::open(&location, offset, hasher, sparse)).await;
        let reader = reader.map_err(convert::files_status)?;
        let stat = GetResponse {
            part: Some(GetPart::Stat(convert::attributes(reader.attributes()))),
        };
        let counted = self.counted();
        let content = ReceiverStream::new(self.read_ahead.start(reader)).map(move |part| {
            let _until_the_stream_is_dropped = &counted;
            get_response(part)
        });
        Ok(Response::new(Box::pin(tokio_stream::once(Ok(stat)).chain(content))))
    }

    async fn stat(&self, request: Request<StatRequest>) -> Result<Response<StatResponse>, Status> {
        let StatRequest { path, no_follow, root } = request.into_inner();
        let location = convert::location(&path, root.as_ref())?;
        let found = run_blocking(move || stat(&location, !no_follow)).await;
        Ok(Response::new(StatResponse {
            stat: found.map_err(convert::files_status)?.map(convert::attributes),
        }))
    }
}
