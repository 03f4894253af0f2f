//! Standard input of one exec on its way to the agent: by offset, acknowledged, from a client's frames or from a file it
//! passed. Runs beside the output, so that neither waits for the other.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use podbridge_proto::limits::MAX_CHUNK;
use podbridge_proto::v1::exec_client::ExecClient;
use podbridge_proto::v1::{StdinAck, StdinChunk};
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::Charge;
use super::descriptor::LocalFile;

/// Chunks handed to HTTP/2 and not yet taken by it.
const IN_FLIGHT: usize = 8;
/// Of a file, read and not acknowledged.
const FILE_WINDOW: usize = 2 << 20;

#[derive(Debug)]
pub(super) enum Piece {
    Data(Bytes, Charge),
    Eof,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ack {
    pub(super) offset: u64,
    /// Nothing more is wanted.
    pub(super) closed: bool,
}

/// Sends what is queued until its end, until the command wants no more, or until the call fails; a broken link is for
/// the output's side to judge. Opens the call only when there is something to send.
pub(super) async fn pump(
    mut exec: ExecClient<Channel>,
    id: [u8; 16],
    mut pieces: mpsc::UnboundedReceiver<Piece>,
    acks: mpsc::UnboundedSender<Ack>,
) {
    let Some(first) = pieces.recv().await else { return };
    let (chunks, outgoing) = mpsc::channel(IN_FLIGHT);
    let (charges, mut charged) = mpsc::unbounded_channel();
    let call = async {
        let mut taken = 0;
        let mut held = VecDeque::<(u64, Charge)>::new();
        let mut answers = match exec.write_stdin(ReceiverStream::new(outgoing)).await {
            Ok(answers) => answers.into_inner(),
            Err(_) => return taken,
        };
        // An error ends it like an end: the exec has ended, or another writer took over.
        while let Ok(Some(StdinAck { offset, closed })) = answers.message().await {
            taken = taken.max(offset);
            while let Ok(charge) = charged.try_recv() {
                held.push_back(charge);
            }
            while held.front().is_some_and(|(end, _)| *end <= taken) {
                held.pop_front();
            }
            if closed {
                break;
            }
            // The client has gone when nobody listens; the output's side sees that.
            let _ = acks.send(Ack { offset: taken, closed });
        }
        taken
    };
    let feed = async {
        let mut offset = 0;
        let mut exec_id = Bytes::copy_from_slice(&id);
        let mut piece = Some(first);
        while let Some(next) = piece.take() {
            let (mut data, eof) = match next {
                Piece::Data(data, charge) => {
                    // The call may have ended; then the charge is void.
                    let _ = charges.send((offset + data.len() as u64, charge));
                    (data, false)
                }
                Piece::Eof => (Bytes::new(), true),
            };
            loop {
                let part = data.split_to(data.len().min(MAX_CHUNK));
                let sent = part.len() as u64;
                let chunk = StdinChunk {
                    exec_id: std::mem::take(&mut exec_id),
                    offset,
                    data: part,
                    eof,
                };
                offset += sent;
                if chunks.send(chunk).await.is_err() || eof {
                    break;
                }
                if data.is_empty() {
                    break;
                }
            }
            if eof {
                break;
            }
            piece = pieces.recv().await;
        }
        drop(chunks);
        // Only the call says when it is done.
        std::future::pending::<()>().await;
    };
    let taken = tokio::select! {
        taken = call => taken,
        () = feed => 0,
    };
    let _ = acks.send(Ack {
        offset: taken,
        closed: true,
    });
    // A client that goes on must not be stopped by a window that nobody opens any more.
    while pieces.recv().await.is_some() {}
}

/// Queues a file's content.
pub(super) async fn read_file(file: LocalFile, pieces: mpsc::UnboundedSender<Piece>) {
    let window = Arc::new(Semaphore::new(FILE_WINDOW));
    let mut offset = 0;
    loop {
        let wanted = (file.size().saturating_sub(offset)).min(MAX_CHUNK as u64) as u32;
        let data = match wanted {
            0 => Bytes::new(),
            _ => {
                let Ok(charge) = window.clone().acquire_many_owned(wanted).await else {
                    return;
                };
                // A file that cannot be read any more ends here: there is no way to fail a stdin but to end it.
                let data = file.read_at(offset, wanted as usize).await.unwrap_or_default();
                if !data.is_empty() && pieces.send(Piece::Data(data.clone(), Charge::new(charge))).is_err() {
                    return;
                }
                data
            }
        };
        if data.is_empty() {
            // The exec has ended when nobody listens.
            let _ = pieces.send(Piece::Eof);
            return;
        }
        offset += data.len() as u64;
    }
}
