//! The two ends of a put: the source of its content, which can start again at an earlier offset, and the agent's call.
//! `put` uses both.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use podbridge_proto::v1::{PutRequest, PutResponse, WriteProgress};
use tokio::sync::mpsc;
use tonic::{Response, Status, Streaming};

use crate::connections::{Connection, permitted};
use crate::protocol::result::Outcome;
use crate::session::budget::{InputCredit, InputShare};
use crate::session::files::passed_file::LocalFile;
use crate::session::files::read_ahead::{self, ContentPart, ReadPart};
use crate::session::files::running_digest::{DigestInput, RunningDigest};
use crate::session::unacknowledged::{InputPart, UnacknowledgedInput};

/// Source of the content.
pub(crate) enum PutSource {
    File {
        file: LocalFile,
        parts: mpsc::Receiver<ReadPart>,
        share: InputShare,
    },
    Frames {
        input: UnacknowledgedInput,
        share: InputShare,
        /// Offset of the byte that is sent next.
        offset: u64,
    },
}

impl PutSource {
    pub(crate) fn new(file: Option<LocalFile>, share: InputShare) -> Self {
        match file {
            Some(file) => Self::File {
                file,
                parts: mpsc::channel(1).1,
                share,
            },
            None => Self::Frames {
                input: UnacknowledgedInput::default(),
                share,
                offset: 0,
            },
        }
    }

    /// Returns whether the content comes as frames, which cannot be read again.
    pub(crate) fn is_framed(&self) -> bool {
        matches!(self, Self::Frames { .. })
    }

    pub(crate) fn add(&mut self, data: Bytes, credit: InputCredit) {
        if let Self::Frames { input, .. } = self {
            input.add(InputPart::Data(data, credit));
        }
    }

    pub(crate) fn end(&mut self) {
        if let Self::Frames { input, .. } = self {
            input.add(InputPart::Eof);
        }
    }

    /// Continues at `from`. Returns false if the source no longer has these bytes.
    pub(crate) fn seek(&mut self, from: u64, digest: &Arc<Mutex<RunningDigest>>, holes: bool) -> bool {
        match self {
            Self::File { file, parts, share } => {
                *parts = read_ahead::read(file, from, digest.clone(), holes, share.clone());
                true
            }
            Self::Frames { input, offset, .. } => {
                *offset = from;
                (input.start()..=input.end).contains(&from)
            }
        }
    }

    pub(crate) fn acknowledge(&mut self, length: u64) {
        if let Self::Frames { input, .. } = self {
            input.acknowledge(length);
        }
    }

    /// Tells whether the client can send nothing more until the agent has acknowledged something.
    pub(crate) fn is_starved(&self) -> bool {
        match self {
            Self::File { .. } => false,
            Self::Frames { input, share, offset } => *offset == input.end && !input.eof && share.is_used_up(),
        }
    }

    /// Returns the next part, and the permission to hold it until it is sent; frames have theirs until they are acknowledged. Waits for
    /// the part if the source is frames. Cancel-safe.
    pub(crate) async fn next(
        &mut self,
        digest: &Mutex<RunningDigest>,
    ) -> Result<(ContentPart, Option<InputCredit>), Outcome> {
        match self {
            Self::File { parts, .. } => match parts.recv().await {
                Some((part, credit)) => part.map(|part| (part, Some(credit))),
                // The reader has sent its last part.
                None => std::future::pending().await,
            },
            Self::Frames { input, offset, .. } => {
                let data = input.chunk_at(*offset);
                if !data.is_empty() {
                    let mut digest = digest.lock().unwrap_or_else(PoisonError::into_inner);
                    digest.add_unseen(*offset, &DigestInput::Data(&data));
                    *offset += data.len() as u64;
                    return Ok((ContentPart::Data(data), None));
                }
                if input.eof {
                    return Ok((ContentPart::End, None));
                }
                std::future::pending().await
            }
        }
    }
}

/// A message of the call, with the permission to hold its content.
pub(crate) type QueuedPart = (PutRequest, Option<InputCredit>);

/// Message of the agent about a put.
pub(crate) enum PutAnswer {
    /// Length that the agent has written.
    Written(u64),
    Done(PutResponse),
}

/// A call whose response has not come.
type PendingCall<T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send>>;

/// Call of a put. It progresses only while `next` is polled.
pub(crate) enum PutCall {
    /// Call of an agent without `Files.Write`. The agent answers once, at the end.
    Put(PendingCall<PutResponse>),
    Opening(PendingCall<Streaming<WriteProgress>>),
    Open(Streaming<WriteProgress>),
}

impl PutCall {
    /// Starts the call; `parts` are what it sends.
    pub(crate) fn start(connection: &Connection, resumable: bool, parts: mpsc::Receiver<QueuedPart>) -> Self {
        let mut files = connection.files();
        let parts = permitted(parts);
        if resumable {
            Self::Opening(Box::pin(async move { files.write(parts).await }))
        } else {
            Self::Put(Box::pin(async move { files.put(parts).await }))
        }
    }

    /// Returns the agent's next message. Cancel-safe. Must not be called again after the end.
    pub(crate) async fn next(&mut self) -> Result<PutAnswer, Status> {
        loop {
            match self {
                Self::Put(call) => return call.await.map(|answer| PutAnswer::Done(answer.into_inner())),
                Self::Opening(call) => *self = Self::Open(call.await?.into_inner()),
                Self::Open(answers) => {
                    return match answers.message().await? {
                        Some(WriteProgress { done: Some(done), .. }) => Ok(PutAnswer::Done(done)),
                        Some(WriteProgress { length, done: None }) => Ok(PutAnswer::Written(length)),
                        None => Err(Status::internal(
                            "the agent ended the transfer before the end of the file; try again",
                        )),
                    };
                }
            }
        }
    }
}
