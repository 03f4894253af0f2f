//! Standard input of one exec, from the client's frames or from a file that the client passed. It is kept by offset
//! until the agent acknowledges it, so the next link continues where the last one broke. `run` starts `pump` as a task,
//! so that stdin and output never wait for each other.

use std::sync::Arc;

use bytes::Bytes;
use podbridge_proto::limits::MAX_CHUNK;
use podbridge_proto::v1::{StdinAck, StdinChunk};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

use crate::connections::{Connection, is_broken_link};
use crate::protocol::result::Outcome;
use crate::session::budget::InputShare;
use crate::session::files::passed_file::LocalFile;
use crate::session::news::News;
use crate::session::unacknowledged::{InputPart, UnacknowledgedInput};

/// Chunks handed to HTTP/2 and not yet sent.
const QUEUED_CHUNKS: usize = 8;

/// Offset up to which the agent has taken the stdin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ack {
    pub(crate) offset: u64,
    /// The command wants no more input.
    pub(crate) closed: bool,
}

/// Sends the queued input until its end, until the command wants no more, or until the exec is over. Ignores why a link
/// broke: the output's side decides that. Opens a call only when there is input. `from`: offset of the first part.
pub(crate) async fn pump(
    id: [u8; 16],
    from: u64,
    mut links: watch::Receiver<Option<Arc<Connection>>>,
    mut parts: mpsc::UnboundedReceiver<InputPart>,
    acks: watch::Sender<Ack>,
) {
    let mut input = UnacknowledgedInput::starting_at(from);
    match parts.recv().await {
        Some(part) => input.add(part),
        None => return,
    }
    loop {
        let connection = links.borrow_and_update().clone();
        if let Some(connection) = connection
            && let WriteEnd::Closed = write_over_link(&connection, id, &mut input, &mut parts, &acks).await
        {
            break;
        }
        if links.changed().await.is_err() {
            return;
        }
    }
    acks.send_replace(Ack {
        offset: input.acknowledged,
        closed: true,
    });
    drop(input);
    // Keep the client's window open: a client that still sends must not be blocked.
    while parts.recv().await.is_some() {}
}

/// How the call of one link ended.
enum WriteEnd {
    /// The command wants no more input.
    Closed,
    /// The link broke, or the agent ends.
    Broken,
}

/// Sends the input over one link, from the first byte that is not acknowledged. The agent drops the bytes that it has.
async fn write_over_link(
    connection: &Connection,
    id: [u8; 16],
    input: &mut UnacknowledgedInput,
    parts: &mut mpsc::UnboundedReceiver<InputPart>,
    acks: &watch::Sender<Ack>,
) -> WriteEnd {
    let mut exec = connection.exec();
    let (chunks, outgoing) = mpsc::channel(QUEUED_CHUNKS);
    let call = exec.write_stdin(ReceiverStream::new(outgoing));
    tokio::pin!(call);
    let mut chunks = Some(chunks);
    let mut answers = None;
    let mut exec_id = Bytes::copy_from_slice(&id);
    let mut offset = input.start();
    let mut news = News::default();
    // No more parts will come.
    let mut input_closed = false;
    loop {
        let has_more = offset < input.end || input.eof;
        tokio::select! {
            permit = reserve(chunks.clone()), if has_more => match permit {
                Some(permit) => {
                    let (start, data) = input.next_chunk(offset);
                    offset = start + data.len() as u64;
                    let eof = input.eof && offset == input.end;
                    permit.send(StdinChunk { exec_id: std::mem::take(&mut exec_id), offset: start, data, eof });
                    if eof {
                        chunks = None;
                    }
                }
                // The call has ended; its answer below says why.
                None => chunks = None,
            },
            part = parts.recv(), if !input.eof && !input_closed => match part {
                Some(part) => input.add(part),
                None => input_closed = true,
            },
            answer = next_ack(&mut answers, &mut call) => match answer {
                Ok(Some(StdinAck { offset, closed })) => {
                    // The agent may have more than this bridge has sent, from an earlier bridge. More of it does not come.
                    let is_new = offset > input.acknowledged && offset <= input.end;
                    input.acknowledge(offset);
                    if news.note(is_new).is_err() {
                        return WriteEnd::Closed;
                    }
                    if closed {
                        return WriteEnd::Closed;
                    }
                    // Only the newest counts: an agent that sends many makes nothing grow.
                    acks.send_replace(Ack { offset, closed });
                }
                Ok(None) => return WriteEnd::Broken,
                Err(status) if is_broken_link(&status, connection) => return WriteEnd::Broken,
                // The exec has ended, or another call sends its stdin now.
                Err(_) => return WriteEnd::Closed,
            },
        }
    }
}

/// Waits for space in the call's queue; `None`: the call has ended.
async fn reserve(chunks: Option<mpsc::Sender<StdinChunk>>) -> Option<mpsc::OwnedPermit<StdinChunk>> {
    match chunks {
        Some(chunks) => chunks.reserve_owned().await.ok(),
        None => std::future::pending().await,
    }
}

/// Opens the call if it is not open, and returns its next acknowledgement.
async fn next_ack(
    answers: &mut Option<Streaming<StdinAck>>,
    call: &mut (impl Future<Output = Result<Response<Streaming<StdinAck>>, Status>> + Unpin),
) -> Result<Option<StdinAck>, Status> {
    let answers = match answers {
        Some(answers) => answers,
        None => answers.insert(call.await?.into_inner()),
    };
    answers.message().await
}

/// Queues a file's content. If the file cannot be read to its end, no end is queued: the command must not take it for a
/// shorter file.
pub(crate) async fn read_file(
    file: LocalFile,
    share: InputShare,
    parts: mpsc::UnboundedSender<InputPart>,
) -> Result<(), Outcome> {
    let mut offset = 0;
    loop {
        let left = (file.size().saturating_sub(offset)).min(MAX_CHUNK as u64) as usize;
        let (data, credit) = match left {
            0 => (Bytes::new(), None),
            _ => {
                let credit = share.charge(left).await;
                (file.read_at(offset, credit.bytes()).await?, Some(credit))
            }
        };
        offset += data.len() as u64;
        let part = match credit.filter(|_| !data.is_empty()) {
            Some(credit) => InputPart::Data(data, credit),
            None => InputPart::Eof,
        };
        let is_last = matches!(part, InputPart::Eof);
        // If the exec has ended the receiver is gone.
        if parts.send(part).is_err() || is_last {
            return Ok(());
        }
    }
}
