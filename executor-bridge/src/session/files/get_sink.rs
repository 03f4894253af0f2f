//! Destination of a get: the client's file descriptor, written and hashed on a blocking thread, or frames to the
//! client. `get` uses it.

use bytes::Bytes;
use podbridge_proto::digest::ZEROS;
use podbridge_proto::v1::Digest;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::error::Failure;
use crate::protocol::frame::{Frame, MAX_LENGTH};
use crate::protocol::result::{EndedExec, Outcome};
use crate::session::files::passed_file::LocalFile;
use crate::session::files::running_digest::{DigestInput, RunningDigest};

/// Most parts that wait for the disk.
const QUEUED_PARTS: usize = 4;

/// One part of a file's content, or a mark between two parts.
#[derive(Debug)]
pub(crate) enum ReceivedPart {
    Data(Bytes),
    Hole(u64),
    /// The link broke after the last part.
    LinkBreak,
}

/// Destination of the content.
pub(crate) enum GetSink {
    File {
        parts: mpsc::Sender<ReceivedPart>,
        writer: JoinHandle<Result<RunningDigest, Outcome>>,
    },
    Frames {
        replies: mpsc::Sender<Frame>,
        digest: RunningDigest,
    },
}

impl GetSink {
    pub(crate) fn new(file: Option<&LocalFile>, replies: &mpsc::Sender<Frame>, kind: Digest) -> Self {
        match file {
            Some(file) => {
                let (parts, queue) = mpsc::channel(QUEUED_PARTS);
                let file = file.clone();
                let writer = spawn_blocking(move || write_file(&file, queue, RunningDigest::new(kind)));
                Self::File { parts, writer }
            }
            None => Self::Frames {
                replies: replies.clone(),
                digest: RunningDigest::new(kind),
            },
        }
    }

    /// Takes the next part. An error is the outcome of a transfer that cannot continue.
    pub(crate) async fn accept(&mut self, part: ReceivedPart) -> Result<(), Outcome> {
        match self {
            Self::File { parts, writer } => match parts.send(part).await {
                Ok(()) => Ok(()),
                // The writer has failed; its result says why.
                Err(_) => Err(writer_result(writer.await).err().unwrap_or_else(client_gone)),
            },
            Self::Frames { replies, digest } => {
                match &part {
                    ReceivedPart::Data(data) => digest.add(&DigestInput::Data(data)),
                    ReceivedPart::Hole(count) => digest.add(&DigestInput::Hole(*count)),
                    ReceivedPart::LinkBreak => digest.start_part(),
                }
                send_frames(replies, part).await
            }
        }
    }

    /// Waits until all parts are written, and returns their digest.
    pub(crate) async fn finish(self) -> Result<RunningDigest, Outcome> {
        match self {
            Self::File { parts, writer } => {
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

/// Sends a part to the client. A hole is sent as zeros.
async fn send_frames(replies: &mpsc::Sender<Frame>, part: ReceivedPart) -> Result<(), Outcome> {
    let send = async |data| replies.send(Frame::Stdout(data)).await.map_err(|_| client_gone());
    match part {
        ReceivedPart::Data(data) if data.len() >= MAX_LENGTH => Err(Outcome::Lost(Failure::bug(
            "the agent sent a message that is too large",
        ))),
        ReceivedPart::Data(data) => send(data).await,
        ReceivedPart::Hole(mut count) => {
            while count > 0 {
                let length = count.min(ZEROS.len() as u64);
                send(Bytes::from_static(&ZEROS[..length as usize])).await?;
                count -= length;
            }
            Ok(())
        }
        ReceivedPart::LinkBreak => Ok(()),
    }
}

/// Writes and hashes the parts; runs on a blocking thread.
fn write_file(
    file: &LocalFile,
    mut parts: mpsc::Receiver<ReceivedPart>,
    mut digest: RunningDigest,
) -> Result<RunningDigest, Outcome> {
    // Every range that is not written becomes a hole.
    file.truncate_now(0)?;
    while let Some(part) = parts.blocking_recv() {
        match part {
            ReceivedPart::Data(data) => {
                file.write_now(digest.length(), &data)?;
                digest.add(&DigestInput::Data(&data));
            }
            ReceivedPart::Hole(count) => digest.add(&DigestInput::Hole(count)),
            ReceivedPart::LinkBreak => digest.start_part(),
        }
    }
    file.truncate_now(digest.length())?;
    Ok(digest)
}
