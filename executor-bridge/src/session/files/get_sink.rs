//! Destination of a get: the client's file descriptor, written and hashed in short steps on threads, or frames to the client. `get` uses
//! it.

use std::collections::VecDeque;

use bytes::Bytes;
use podbridge_proto::digest::ZEROS;
use podbridge_proto::v1::Digest;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use crate::error::Failure;
use crate::protocol::frame::Frame;
use crate::protocol::result::{EndedExec, Outcome};
use crate::session::budget::Credit;
use crate::session::client::Replies;
use crate::session::files::disk_turns::on_disk;
use crate::session::files::passed_file::LocalFile;
use crate::session::files::running_digest::{DigestInput, RunningDigest};

/// Most parts that wait for the disk.
const QUEUED_PARTS: usize = 4;
/// Bytes of holes that are hashed in one step: one or two milliseconds.
const STEP_ZEROS: u64 = 4 << 20;

/// One part of a file's content, or a mark between two parts.
#[derive(Debug)]
pub(crate) enum ReceivedPart {
    Data(Bytes),
    Hole(u64),
    /// The link broke after the last part.
    LinkBreak,
}

/// Whether a part was taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    Whole,
    /// The client stands still; what it has not got has to come again.
    LetGo,
}

/// Destination of the content.
pub(crate) enum GetSink {
    File {
        parts: mpsc::Sender<(ReceivedPart, Option<Credit>)>,
        replies: Replies,
        writer: AbortOnDropHandle<Result<RunningDigest, Outcome>>,
    },
    Frames {
        replies: Replies,
        digest: RunningDigest,
    },
}

impl GetSink {
    pub(crate) fn new(file: Option<&LocalFile>, replies: &Replies, kind: Digest) -> Self {
        let (replies, digest) = (replies.clone(), RunningDigest::new(kind));
        match file {
            Some(file) => {
                let (parts, queue) = mpsc::channel(QUEUED_PARTS);
                let writer: JoinHandle<_> = tokio::spawn(write_file(file.clone(), queue, digest));
                Self::File {
                    parts,
                    replies,
                    writer: AbortOnDropHandle::new(writer),
                }
            }
            None => Self::Frames { replies, digest },
        }
    }

    /// Takes the next part. An error is the outcome of a transfer that cannot continue. `window`: the flow-control window of a stream that
    /// may be let go if the client stands still; `None`: it may not.
    pub(crate) async fn accept(&mut self, part: ReceivedPart, window: Option<usize>) -> Result<Taken, Outcome> {
        match self {
            Self::File { parts, replies, writer } => {
                let credit = match &part {
                    ReceivedPart::Data(data) => match replies.budget.held_answer(data.len()) {
                        Ok(credit) => Some(credit),
                        Err(_) => {
                            // Others hold as much as the bridge may: one part after the other.
                            let _ = parts.reserve_many(QUEUED_PARTS).await;
                            None
                        }
                    },
                    ReceivedPart::Hole(_) | ReceivedPart::LinkBreak => None,
                };
                match parts.send((part, credit)).await {
                    Ok(()) => Ok(Taken::Whole),
                    // The writer has failed; its result says why.
                    Err(_) => Err(writer_result(writer.await).err().unwrap_or_else(client_gone)),
                }
            }
            Self::Frames { replies, digest } => send_frames(replies, digest, part, window).await,
        }
    }

    /// Waits until the client takes more.
    pub(crate) async fn wait_for_client(&self) -> Result<(), Outcome> {
        match self {
            Self::File { .. } => Ok(()),
            Self::Frames { replies, .. } => replies.reserve().await.map(drop).map_err(|_| client_gone()),
        }
    }

    /// Returns the length of what the client has; `None` if that is what was accepted.
    pub(crate) fn sent(&self) -> Option<u64> {
        match self {
            Self::File { .. } => None,
            Self::Frames { digest, .. } => Some(digest.length()),
        }
    }

    /// Waits until all parts are written, and returns their digest.
    pub(crate) async fn finish(self) -> Result<RunningDigest, Outcome> {
        match self {
            Self::File { parts, writer, .. } => {
                drop(parts);
                writer_result(writer.await)
            }
            Self::Frames { digest, .. } => Ok(digest),
        }
    }
}

fn client_gone() -> Outcome {
    Outcome::Cancelled(EndedExec::default())
}

/// Converts a panic of the writer to an outcome.
fn writer_result(
    writer: Result<Result<RunningDigest, Outcome>, tokio::task::JoinError>,
) -> Result<RunningDigest, Outcome> {
    writer.unwrap_or_else(|_| Err(Outcome::Lost(Failure::bug("the file's writer failed"))))
}

/// Sends a part to the client, and hashes what is sent. A hole is sent as zeros.
async fn send_frames(
    replies: &Replies,
    digest: &mut RunningDigest,
    part: ReceivedPart,
    window: Option<usize>,
) -> Result<Taken, Outcome> {
    let (mut data, mut zeros) = match part {
        ReceivedPart::Data(data) => (data, 0),
        ReceivedPart::Hole(count) => (Bytes::new(), count),
        ReceivedPart::LinkBreak => {
            digest.start_part();
            return Ok(Taken::Whole);
        }
    };
    loop {
        if data.is_empty() {
            if zeros == 0 {
                return Ok(Taken::Whole);
            }
            let length = zeros.min(ZEROS.len() as u64);
            zeros -= length;
            data = Bytes::from_static(&ZEROS[..length as usize]);
        }
        let let_go = async {
            match window {
                Some(window) => replies.budget.stall_timeout(window).await,
                None => std::future::pending().await,
            }
        };
        let permit = tokio::select! {
            biased;
            permit = replies.reserve() => permit.map_err(|_| client_gone())?,
            () = let_go => return Ok(Taken::LetGo),
        };
        let before = data.clone();
        let reply = replies.piece(&mut data, Frame::Stdout);
        digest.add(&DigestInput::Data(&before[..before.len() - data.len()]));
        permit.send(reply);
    }
}

/// Writes and hashes the parts as they come, each step on a thread.
async fn write_file(
    file: LocalFile,
    mut parts: mpsc::Receiver<(ReceivedPart, Option<Credit>)>,
    digest: RunningDigest,
) -> Result<RunningDigest, Outcome> {
    // Every range that is not written becomes a hole.
    let emptied = file.clone();
    let mut digest = on_disk(move || emptied.truncate_now(0).map(|()| digest)).await?;
    let mut received = Vec::with_capacity(QUEUED_PARTS);
    while parts.recv_many(&mut received, QUEUED_PARTS).await > 0 {
        let mut waiting = VecDeque::from(std::mem::take(&mut received));
        while !waiting.is_empty() {
            let file = file.clone();
            (digest, waiting) = on_disk(move || {
                write_step(&file, &mut waiting, &mut digest)?;
                Ok((digest, waiting))
            })
            .await?;
        }
    }
    on_disk(move || file.truncate_now(digest.length()).map(|()| digest)).await
}

/// Writes the parts up to the first hole, and as much of that as one step may hash.
fn write_step(
    file: &LocalFile,
    parts: &mut VecDeque<(ReceivedPart, Option<Credit>)>,
    digest: &mut RunningDigest,
) -> Result<(), Outcome> {
    while let Some((part, _credit)) = parts.pop_front() {
        match part {
            ReceivedPart::Data(data) => {
                file.write_now(digest.length(), &data)?;
                digest.add(&DigestInput::Data(&data));
            }
            ReceivedPart::Hole(count) => {
                let now = count.min(STEP_ZEROS);
                digest.add(&DigestInput::Hole(now));
                if count > now {
                    parts.push_front((ReceivedPart::Hole(count - now), None));
                }
                return Ok(());
            }
            ReceivedPart::LinkBreak => digest.start_part(),
        }
    }
    Ok(())
}
