//! Destination of a get: the client's file descriptor, written and hashed in short steps on threads, or frames to the client. `get` uses
//! it.

use bytes::Bytes;
use podbridge_proto::digest::ZEROS;
use podbridge_proto::v1::Digest;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

use crate::connections::Lane;
use crate::error::Failure;
use crate::protocol::frame::Frame;
use crate::protocol::result::{EndedExec, Outcome};
use crate::session::budget::Credit;
use crate::session::client::Replies;
use crate::session::files::disk_turns::on_disk;
use crate::session::files::passed_file::LocalFile;
use crate::session::files::running_digest::{DigestInput, RunningDigest};

/// Most parts that wait for the disk.
const QUEUED_PARTS: usize = 16;
/// Most parts that one step on a thread writes. A step ends when no part waits, so that no thread waits for an agent.
const STEP_PARTS: usize = 16;
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

/// A part that waits for the disk, with what it counts in the budget.
type QueuedPart = (ReceivedPart, Option<Credit>);

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
        parts: mpsc::Sender<QueuedPart>,
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

    /// Takes the next part. An error is the outcome of a transfer that cannot continue. `lane`: the lane of a stream that
    /// may be let go if the client stands still; `None`: it may not.
    pub(crate) async fn accept(&mut self, part: ReceivedPart, lane: Option<Lane>) -> Result<Taken, Outcome> {
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
            Self::Frames { replies, digest } => send_frames(replies, digest, part, lane).await,
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
    lane: Option<Lane>,
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
            match lane {
                Some(lane) => replies.budget.stall_timeout(lane).await,
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
    mut parts: mpsc::Receiver<QueuedPart>,
    digest: RunningDigest,
) -> Result<RunningDigest, Outcome> {
    // Every range that is not written becomes a hole.
    let emptied = file.clone();
    let mut digest = on_disk(move || emptied.truncate_now(0).map(|()| digest)).await?;
    while let Some(first) = parts.recv().await {
        let mut waiting = Some(first);
        while let Some(next) = waiting {
            let file = file.clone();
            (digest, parts, waiting) = on_disk(move || {
                let rest = write_step(&file, next, &mut parts, &mut digest)?;
                Ok((digest, parts, rest))
            })
            .await?;
        }
    }
    on_disk(move || file.truncate_now(digest.length()).map(|()| digest)).await
}

/// Writes a part and those that have come meanwhile, up to `STEP_PARTS` or a hole. Returns the rest of a hole, of which one step hashes
/// only so much.
fn write_step(
    file: &LocalFile,
    first: QueuedPart,
    parts: &mut mpsc::Receiver<QueuedPart>,
    digest: &mut RunningDigest,
) -> Result<Option<QueuedPart>, Outcome> {
    let mut next = Some(first);
    for _ in 0..STEP_PARTS {
        let Some((part, _credit)) = next else {
            break;
        };
        match part {
            ReceivedPart::Data(data) => {
                file.write_now(digest.length(), &data)?;
                digest.add(&DigestInput::Data(&data));
            }
            ReceivedPart::Hole(count) => {
                let now = count.min(STEP_ZEROS);
                digest.add(&DigestInput::Hole(now));
                let rest = count - now;
                return Ok((rest > 0).then_some((ReceivedPart::Hole(rest), None)));
            }
            ReceivedPart::LinkBreak => digest.start_part(),
        }
        next = parts.try_recv().ok();
    }
    Ok(next)
}
