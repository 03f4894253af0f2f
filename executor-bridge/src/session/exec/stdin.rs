//! Standard input of one exec on its way to the agent: by offset, kept until it is acknowledged, so that the next link
//! goes on where the last one broke. From a client's frames or from a file it passed. Runs beside the output, so that
//! neither waits for the other.

use std::future::pending;
use std::sync::Arc;

use bytes::Bytes;
use podbridge_proto::limits::MAX_CHUNK;
use podbridge_proto::v1::{StdinAck, StdinChunk};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

use crate::connections::{Connection, is_broken_link};
use crate::protocol::result::Outcome;
use crate::session::client::InputCredit;
use crate::session::files::passed_file::LocalFile;
use crate::session::unacknowledged::{Pending, Piece};

/// Chunks handed to HTTP/2 and not yet taken by it.
const IN_FLIGHT: usize = 8;
/// Of a file, read and not acknowledged.
const FILE_WINDOW: usize = 2 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ack {
    pub(crate) offset: u64,
    /// Nothing more is wanted.
    pub(crate) closed: bool,
}

/// Sends what is queued until its end, until the command wants no more, or until the exec is over; what a broken link
/// means is for the output's side to judge. Opens a call only when there is something to send. `from`: offset of the first piece.
pub(crate) async fn pump(
    id: [u8; 16],
    from: u64,
    mut links: watch::Receiver<Option<Arc<Connection>>>,
    mut pieces: mpsc::UnboundedReceiver<Piece>,
    acks: mpsc::UnboundedSender<Ack>,
) {
    let mut pending = Pending::beginning_at(from);
    match pieces.recv().await {
        Some(piece) => pending.add(piece),
        None => return,
    }
    loop {
        let connection = links.borrow_and_update().clone();
        if let Some(connection) = connection
            && let Over::Closed = write(&connection, id, &mut pending, &mut pieces, &acks).await
        {
            break;
        }
        if links.changed().await.is_err() {
            return;
        }
    }
    let _ = acks.send(Ack {
        offset: pending.taken,
        closed: true,
    });
    drop(pending);
    // A client that goes on must not be stopped by a window that nobody opens any more.
    while pieces.recv().await.is_some() {}
}

enum Over {
    Closed,
    /// The link broke, or the agent ends.
    Broken,
}

/// Sends over one link, from the first byte that is not acknowledged: the agent drops what it has already.
async fn write(
    connection: &Connection,
    id: [u8; 16],
    pending: &mut Pending,
    pieces: &mut mpsc::UnboundedReceiver<Piece>,
    acks: &mpsc::UnboundedSender<Ack>,
) -> Over {
    let mut exec = connection.exec();
    let (chunks, outgoing) = mpsc::channel(IN_FLIGHT);
    let call = exec.write_stdin(ReceiverStream::new(outgoing));
    tokio::pin!(call);
    let mut chunks = Some(chunks);
    let mut answers = None;
    let mut exec_id = Bytes::copy_from_slice(&id);
    let mut offset = pending.start();
    // Nobody sends any more: what is queued is all.
    let mut silent = false;
    loop {
        let wanted = offset < pending.end || pending.eof;
        tokio::select! {
            room = room(chunks.clone()), if wanted => match room {
                Some(room) => {
                    let (start, data) = pending.after(offset);
                    offset = start + data.len() as u64;
                    let eof = pending.eof && offset == pending.end;
                    room.send(StdinChunk { exec_id: std::mem::take(&mut exec_id), offset: start, data, eof });
                    if eof {
                        chunks = None;
                    }
                }
                // The call has ended, and says how below.
                None => chunks = None,
            },
            piece = pieces.recv(), if !pending.eof && !silent => match piece {
                Some(piece) => pending.add(piece),
                None => silent = true,
            },
            answer = next(&mut answers, &mut call) => match answer {
                Ok(Some(StdinAck { offset, closed })) => {
                    pending.acknowledge(offset);
                    if closed {
                        return Over::Closed;
                    }
                    // The client has gone when nobody listens; the output's side sees that.
                    let _ = acks.send(Ack { offset, closed });
                }
                Ok(None) => return Over::Broken,
                Err(status) if is_broken_link(&status, connection) => return Over::Broken,
                // The exec has ended, or another writer took over.
                Err(_) => return Over::Closed,
            },
        }
    }
}

async fn room(chunks: Option<mpsc::Sender<StdinChunk>>) -> Option<mpsc::OwnedPermit<StdinChunk>> {
    match chunks {
        Some(chunks) => chunks.reserve_owned().await.ok(),
        None => pending().await,
    }
}

/// The next acknowledgement; opens the call first.
async fn next(
    answers: &mut Option<Streaming<StdinAck>>,
    call: &mut (impl Future<Output = Result<Response<Streaming<StdinAck>>, Status>> + Unpin),
) -> Result<Option<StdinAck>, Status> {
    let answers = match answers {
        Some(answers) => answers,
        None => answers.insert(call.await?.into_inner()),
    };
    answers.message().await
}

/// Queues a file's content. A file that cannot be read to its end must not look like a shorter one: no end is queued then.
pub(crate) async fn read_file(file: LocalFile, pieces: mpsc::UnboundedSender<Piece>) -> Result<(), Outcome> {
    let window = Arc::new(Semaphore::new(FILE_WINDOW));
    let mut offset = 0;
    loop {
        let wanted = (file.size().saturating_sub(offset)).min(MAX_CHUNK as u64) as u32;
        let data = match wanted {
            0 => Bytes::new(),
            _ => {
                let Ok(charge) = window.clone().acquire_many_owned(wanted).await else {
                    return Ok(());
                };
                let data = file.read_at(offset, wanted as usize).await?;
                if !data.is_empty()
                    && pieces
                        .send(Piece::Data(data.clone(), InputCredit::new(charge)))
                        .is_err()
                {
                    return Ok(());
                }
                data
            }
        };
        if data.is_empty() {
            // The exec has ended when nobody listens.
            let _ = pieces.send(Piece::Eof);
            return Ok(());
        }
        offset += data.len() as u64;
    }
}
