//! The `Exec` service: converts messages and passes them between the connection and `exec`. Execs belong to `exec::Registry`.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::unfold;
use podbridge_proto::limits::{MAX_CHUNK, MAX_PUTS};
use podbridge_proto::v1::exec_server::Exec;
use podbridge_proto::v1::put_and_exec_request::Part;
use podbridge_proto::v1::put_request::Part as PutPart;
use podbridge_proto::v1::{
    AttachRequest, CancelRequest, CancelResponse, ExecEvent, ExecSummary, ListRequest, ListResponse, PutAndExecRequest,
    PutRequest, PutTrailer, ReleaseRequest, ReleaseResponse, ResizeRequest, ResizeResponse, RunRequest, SignalRequest,
    SignalResponse, StartRequest, StartResponse, StdinAck, StdinChunk, WaitRequest, WaitResponse,
};
use podbridge_proto::words;
use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use super::convert;
use crate::exec::{self, Offsets, Reader, Registry, StdinWriter};
use crate::files::{ContentWriter, Put, commit_all};

/// Capacity of the queue of acknowledgements into the connection.
const MAX_QUEUED_ACKS: usize = 4;

#[derive(Debug)]
pub(crate) struct ExecService(pub(crate) Arc<Registry>);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Returns the stream of a reader's events: until the last event, or until the client is gone. Output leaves the spool when the connection
/// can take it, and waits nowhere else.
fn stream_events(reader: Reader) -> Answers<ExecEvent> {
    Box::pin(unfold(reader, |mut reader| async {
        let event = reader.next().await?;
        Some((Ok(convert::event(event)), reader))
    }))
}

/// Bytes of stdin that are written before an acknowledgement is due. An acknowledgement costs as much as a chunk on the way to the
/// client, so chunks share one. A client sends at least four times as much before it waits for one (2 MiB of a file, 4 MiB of a stream).
const ACK_STEP: u64 = 512 << 10;
/// Pause in the input after which less than `ACK_STEP` is acknowledged. A bridge whose clients share a budget may wait for it.
const ACK_DELAY: Duration = Duration::from_millis(2);

/// Writes a client's stdin and acknowledges it, until the end of the input, or until the client is gone: its input then leaves the
/// connection's window, even if the command never reads it.
async fn write_stdin(
    writer: StdinWriter,
    first: StdinChunk,
    chunks: Streaming<StdinChunk>,
    acks: mpsc::Sender<Result<StdinAck, Status>>,
) {
    tokio::select! {
        () = acks.closed() => {}
        () = write_and_acknowledge(writer, first, chunks, &acks) => {}
    }
}

async fn write_and_acknowledge(
    mut writer: StdinWriter,
    first: StdinChunk,
    mut chunks: Streaming<StdinChunk>,
    acks: &mpsc::Sender<Result<StdinAck, Status>>,
) {
    let mut chunk = Some(first);
    let mut acknowledged = None;
    while let Some(StdinChunk { offset, data, eof, .. }) = chunk.take() {
        // Empty data without `eof` asks for the current offset; its own offset has no meaning.
        let offset = (!data.is_empty() || eof).then_some(offset);
        let is_query = offset.is_none();
        let progress = match writer.write(offset, &data, eof).await {
            Ok(progress) => progress,
            Err(error) => {
                let _ = acks.send(Err(convert::exec_status(error))).await;
                return;
            }
        };
        let is_due = acknowledged.is_none_or(|acknowledged| progress.taken - acknowledged >= ACK_STEP)
            || is_query
            || progress.closed;
        let next = if is_due {
            None
        } else {
            timeout(ACK_DELAY, chunks.next()).await.ok()
        };
        if !matches!(next, Some(Some(Ok(_)))) {
            acknowledged = Some(progress.taken);
            let ack = StdinAck {
                offset: progress.taken,
                closed: progress.closed,
            };
            if acks.send(Ok(ack)).await.is_err() || progress.closed {
                return;
            }
        }
        chunk = match next {
            Some(next) => next.and_then(Result::ok),
            None => chunks.next().await.and_then(Result::ok),
        };
    }
}

/// Receives files, one after the other. They are verified and do not have their names yet.
async fn receive_files(messages: &mut Streaming<PutAndExecRequest>) -> Result<Vec<Put>, Status> {
    let mut puts = Vec::new();
    let mut open: Option<ContentWriter> = None;
    while let Some(message) = messages.message().await? {
        let part = match message.part {
            Some(Part::Put(PutRequest { part: Some(part) })) => part,
            _ => return Err(Status::invalid_argument("the messages after the run must be files")),
        };
        match (part, open.take()) {
            (PutPart::Header(_), None) if puts.len() == MAX_PUTS => {
                return Err(Status::invalid_argument(format!(
                    "a command takes at most {MAX_PUTS} files"
                )));
            }
            (PutPart::Header(header), None) => {
                let (target, hasher) = convert::new_file(header)?;
                open = Some(ContentWriter::create(target, hasher));
            }
            (PutPart::Data(data), Some(file)) => {
                if file.data(data).await {
                    open = Some(file);
                } else {
                    puts.push(finish(file, None).await?);
                }
            }
            (PutPart::Trailer(trailer), Some(file)) => puts.push(finish(file, Some(trailer)).await?),
            _ => return Err(Status::invalid_argument("a file is a header, data and a trailer")),
        }
    }
    match open {
        None => Ok(puts),
        Some(file) => finish(file, None).await.map(|_| puts),
    }
}

async fn finish(file: ContentWriter, trailer: Option<PutTrailer>) -> Result<Put, Status> {
    let put = file.finish(trailer.as_ref().map(convert::trailer)).await;
    put.map_err(convert::files_status)
}

impl ExecService {
    /// Returns the stream of an exec's events from the given offsets on.
    fn follow(&self, exec: Arc<exec::Exec>, offsets: Offsets, window: u64) -> Response<Answers<ExecEvent>> {
        Response::new(stream_events(self.0.attach(exec, offsets, window, MAX_CHUNK)))
    }
}

#[tonic::async_trait]
impl Exec for ExecService {
    type RunStream = Answers<ExecEvent>;
    type PutAndExecStream = Answers<ExecEvent>;
    type AttachStream = Answers<ExecEvent>;
    type WriteStdinStream = Answers<StdinAck>;

    async fn run(&self, request: Request<RunRequest>) -> Result<Response<Self::RunStream>, Status> {
        let RunRequest {
            start,
            stdout_offset,
            stderr_offset,
            window,
        } = request.into_inner();
        let start = start.ok_or_else(|| Status::invalid_argument("run needs a start"))?;
        let (exec, _) = self.0.start(convert::command(start)?).map_err(convert::exec_status)?;
        Ok(self.follow(exec, convert::offsets(stdout_offset, stderr_offset), window))
    }

    async fn put_and_exec(
        &self,
        request: Request<Streaming<PutAndExecRequest>>,
    ) -> Result<Response<Self::PutAndExecStream>, Status> {
        let mut messages = request.into_inner();
        let Some(PutAndExecRequest {
            part:
                Some(Part::Run(RunRequest {
                    start: Some(start),
                    stdout_offset,
                    stderr_offset,
                    window,
                })),
        }) = messages.message().await?
        else {
            return Err(Status::invalid_argument("put_and_exec must begin with a run"));
        };
        let command = convert::command(start)?;
        let puts = if self.0.knows(command.id) {
            Vec::new()
        } else {
            receive_files(&mut messages).await?
        };
        // Whether a file was replaced or written in place makes no difference to the command.
        let commit = async { commit_all(puts).await.map(drop) };
        let started = self.0.start_after(command, commit).await;
        let started = started.map_err(convert::files_status)?;
        let (exec, _) = started.map_err(convert::exec_status)?;
        Ok(self.follow(exec, convert::offsets(stdout_offset, stderr_offset), window))
    }

    async fn start(&self, request: Request<StartRequest>) -> Result<Response<StartResponse>, Status> {
        let command = convert::command(request.into_inner())?;
        let (exec, created) = self.0.start(command).map_err(convert::exec_status)?;
        Ok(Response::new(StartResponse {
            pid: exec.pid().await,
            created,
        }))
    }

    async fn attach(&self, request: Request<AttachRequest>) -> Result<Response<Self::AttachStream>, Status> {
        let AttachRequest {
            exec_id,
            stdout_offset,
            stderr_offset,
            window,
        } = request.into_inner();
        let exec = self.0.find(convert::exec_id(&exec_id)?).map_err(convert::exec_status)?;
        Ok(self.follow(exec, convert::offsets(stdout_offset, stderr_offset), window))
    }

    async fn write_stdin(
        &self,
        request: Request<Streaming<StdinChunk>>,
    ) -> Result<Response<Self::WriteStdinStream>, Status> {
        let mut chunks = request.into_inner();
        let first = chunks
            .message()
            .await?
            .ok_or_else(|| Status::invalid_argument("no stdin chunk was sent"))?;
        let writer = self
            .0
            .stdin(convert::exec_id(&first.exec_id)?)
            .map_err(convert::exec_status)?;
        let (acks, receiver) = mpsc::channel(MAX_QUEUED_ACKS);
        tokio::spawn(write_stdin(writer, first, chunks, acks));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn signal(&self, request: Request<SignalRequest>) -> Result<Response<SignalResponse>, Status> {
        let SignalRequest { exec_id, signal, scope } = request.into_inner();
        let number = i32::try_from(signal).ok().and_then(Signal::from_named_raw);
        let signal = number.ok_or_else(|| Status::invalid_argument(format!("there is no signal {signal}")))?;
        let (id, scope) = (convert::exec_id(&exec_id)?, convert::scope(scope)?);
        let sent = self.0.signal(id, signal, scope).await;
        sent.map_err(convert::exec_status)?;
        Ok(Response::new(SignalResponse {}))
    }

    async fn resize(&self, request: Request<ResizeRequest>) -> Result<Response<ResizeResponse>, Status> {
        let ResizeRequest { exec_id, size } = request.into_inner();
        let size = convert::size(size.ok_or_else(|| Status::invalid_argument("resize needs a size"))?);
        self.0
            .resize(convert::exec_id(&exec_id)?, size)
            .map_err(convert::exec_status)?;
        Ok(Response::new(ResizeResponse {}))
    }

    async fn wait(&self, request: Request<WaitRequest>) -> Result<Response<WaitResponse>, Status> {
        let id = convert::exec_id(&request.into_inner().exec_id)?;
        let exit = self.0.find(id).map_err(convert::exec_status)?.wait().await;
        Ok(Response::new(WaitResponse {
            exit: Some(convert::exit_record(exit)),
        }))
    }

    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let session = request.into_inner().session;
        if session.is_empty() {
            return Err(Status::invalid_argument("list needs a session"));
        }
        let execs = self.0.list(&session).into_iter().map(|summary| ExecSummary {
            exec_id: summary.id.0.to_vec().into(),
            pid: summary.pid,
            exit: summary.exit.map(convert::exit_record),
        });
        Ok(Response::new(ListResponse { execs: execs.collect() }))
    }

    async fn release(&self, request: Request<ReleaseRequest>) -> Result<Response<ReleaseResponse>, Status> {
        let id = convert::exec_id(&request.into_inner().exec_id)?;
        self.0.release(id).map_err(convert::exec_status)?;
        Ok(Response::new(ReleaseResponse {}))
    }

    async fn cancel(&self, request: Request<CancelRequest>) -> Result<Response<CancelResponse>, Status> {
        let CancelRequest { exec_id, reason } = request.into_inner();
        // The exec keeps the reason, and its record repeats it.
        self.0.cancel(convert::exec_id(&exec_id)?, &words::sentence(&reason));
        Ok(Response::new(CancelResponse {}))
    }
}
