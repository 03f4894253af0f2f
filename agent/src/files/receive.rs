//! Receives one resumable transfer (`Files.Write`): from its first part, or from where an earlier stream of it broke, to the file
//! under its name. It knows no message: `rpc::files` converts the stream, and sends the answers.

use bytes::Bytes;
use podbridge_proto::digest::ContentHasher;
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt as _};

use super::content_writer::{ContentWriter, Outcome, Trailer, commit_all};
use super::transfers::{Receipt, TransferId, TransferState, Transfers};
use super::{Error, Target};

/// Name and goal of a transfer.
#[derive(Debug)]
pub struct Transfer {
    pub id: TransferId,
    pub target: Target,
    /// Empty hasher of the digest that the sender chose.
    pub hasher: ContentHasher,
}

/// A part of a transfer after its header.
#[derive(Debug)]
pub enum Part {
    Data(Bytes),
    /// Number of zeros that take no space on the disk.
    Hole(u64),
    Trailer(Trailer),
    /// The sender gives up; nothing of the transfer is kept.
    Abandon,
}

/// An answer to the sender.
#[derive(Debug)]
pub enum Progress {
    /// Bytes of content that are written. In the first answer: the offset at which the sender continues.
    Written(u64),
    /// The file has its name.
    Completed(Receipt),
}

/// How the stream of parts ended.
enum StreamEnd {
    Trailer(Trailer),
    /// The sender may come again on another stream.
    Broken,
    Abandoned,
    /// The writing task has failed; `ContentWriter::finish` returns its error.
    WriteFailed,
}

/// Receives the transfer to its end. An item `Err` of `parts` ends it with that error; the end of `parts` without a trailer keeps the
/// transfer for another stream. `answers` gets `Ok` only: `E` is the caller's.
pub async fn receive<E>(
    transfer: Transfer,
    mut parts: impl Stream<Item = Result<Part, Error>> + Unpin,
    answers: &mpsc::Sender<Result<Progress, E>>,
    transfers: &Transfers,
) -> Result<(), Error> {
    let Transfer { id, target, hasher } = transfer;
    let (guard, state) = transfers.begin(id).await;
    let mut file = match state {
        TransferState::New => ContentWriter::create(target, hasher),
        TransferState::HalfDone(put) if *put.target() == target => ContentWriter::resume(put),
        TransferState::HalfDone(put) => {
            guard.keep(put);
            return Err(Error::OtherTarget);
        }
        TransferState::Completed(receipt) => {
            answer(answers, Progress::Completed(receipt)).await;
            return Ok(());
        }
    };
    answer(answers, Progress::Written(file.written())).await;
    let end = loop {
        tokio::select! {
            part = parts.next() => match part.transpose()? {
                Some(Part::Data(data)) => if !file.data(data).await {
                    break StreamEnd::WriteFailed;
                }
                Some(Part::Hole(count)) => if !file.hole(count).await {
                    break StreamEnd::WriteFailed;
                }
                Some(Part::Trailer(trailer)) => break StreamEnd::Trailer(trailer),
                Some(Part::Abandon) => break StreamEnd::Abandoned,
                // A sender that gives up sends `Abandon`; an end without a trailer is a broken stream, too.
                None => break StreamEnd::Broken,
            },
            () = guard.taken_over() => break StreamEnd::Broken,
            true = file.has_progressed() => {
                // If the channel is full, the next report covers this one. The channel holds enough reports for a small window.
                let _ = answers.try_send(Ok(Progress::Written(file.written())));
            }
        }
    };
    match end {
        StreamEnd::Abandoned => file.stop().await.map(drop),
        StreamEnd::Broken => match file.stop().await {
            Ok(Outcome::HalfDone(put)) => {
                guard.keep(put);
                Ok(())
            }
            other => other.map(drop),
        },
        StreamEnd::WriteFailed => file.finish(None).await.map(drop),
        StreamEnd::Trailer(trailer) => {
            let put = file.finish(Some(trailer)).await?;
            let in_place = commit_all(vec![put]).await?.into_iter().flatten().next();
            // The trailer was compared with the file.
            let Trailer { length, digest } = trailer;
            let receipt = Receipt {
                length,
                digest,
                in_place,
            };
            guard.complete(receipt);
            answer(answers, Progress::Completed(receipt)).await;
            Ok(())
        }
    }
}

/// Sends an answer; waits for space in the channel.
async fn answer<E>(answers: &mpsc::Sender<Result<Progress, E>>, progress: Progress) {
    // A sender that is gone may ask again on another stream.
    let _ = answers.send(Ok(progress)).await;
}
