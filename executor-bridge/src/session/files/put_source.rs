//! What a put is made of: the content, wherever it comes from and as often as it is needed again, and the call that takes it.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use podbridge_proto::v1::{PutRequest, PutResponse, WriteProgress};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status, Streaming};

use crate::connections::Connection;
use crate::protocol::result::Outcome;
use crate::session::client::InputCredit;
use crate::session::files::passed_file::LocalFile;
use crate::session::files::read_ahead::{self, Piece};
use crate::session::files::running_digest::{self, Sums};
use crate::session::unacknowledged::{self, Pending};

pub(crate) enum Content {
    File {
        file: LocalFile,
        pieces: mpsc::Receiver<Result<Piece, Outcome>>,
    },
    Frames {
        pending: Pending,
        /// What is sent next.
        offset: u64,
    },
}

impl Content {
    pub(crate) fn new(file: Option<LocalFile>) -> Self {
        match file {
            Some(file) => Self::File {
                file,
                pieces: mpsc::channel(1).1,
            },
            None => Self::Frames {
                pending: Pending::default(),
                offset: 0,
            },
        }
    }

    pub(crate) fn is_framed(&self) -> bool {
        matches!(self, Self::Frames { .. })
    }

    pub(crate) fn add(&mut self, data: Bytes, charge: InputCredit) {
        if let Self::Frames { pending, .. } = self {
            pending.add(unacknowledged::Piece::Data(data, charge));
        }
    }

    pub(crate) fn end(&mut self) {
        if let Self::Frames { pending, .. } = self {
            pending.add(unacknowledged::Piece::Eof);
        }
    }

    /// Goes on at `from`. False if that is gone.
    pub(crate) fn seek(&mut self, from: u64, sums: &Arc<Mutex<Sums>>, holes: bool) -> bool {
        match self {
            Self::File { file, pieces } => {
                *pieces = read_ahead::read(file, from, sums.clone(), holes);
                true
            }
            Self::Frames { pending, offset } => {
                *offset = from;
                (pending.start()..=pending.end).contains(&from)
            }
        }
    }

    pub(crate) fn acknowledge(&mut self, length: u64) {
        if let Self::Frames { pending, .. } = self {
            pending.acknowledge(length);
        }
    }

    /// The next piece; of frames, when it has come. Cancel-safe.
    pub(crate) async fn next(&mut self, sums: &Mutex<Sums>) -> Result<Piece, Outcome> {
        match self {
            Self::File { pieces, .. } => match pieces.recv().await {
                Some(piece) => piece,
                // The reader has said its last.
                None => std::future::pending().await,
            },
            Self::Frames { pending, offset } => {
                let data = pending.at(*offset);
                if !data.is_empty() {
                    let mut sums = sums.lock().unwrap_or_else(PoisonError::into_inner);
                    sums.cover(*offset, &running_digest::Piece::Data(&data));
                    *offset += data.len() as u64;
                    return Ok(Piece::Data(data));
                }
                match pending.eof {
                    true => Ok(Piece::End),
                    false => std::future::pending().await,
                }
            }
        }
    }
}

/// What the agent says of a put.
pub(crate) enum Answer {
    /// So much is written.
    There(u64),
    Done(PutResponse),
}

type Calling<T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send>>;

/// It moves only while `next` is polled.
pub(crate) enum Call {
    /// To an agent that answers once, at the end.
    Put(Calling<PutResponse>),
    Opening(Calling<Streaming<WriteProgress>>),
    Open(Streaming<WriteProgress>),
}

impl Call {
    pub(crate) fn begin(connection: &Connection, resumable: bool, parts: mpsc::Receiver<PutRequest>) -> Self {
        let mut files = connection.files();
        let parts = ReceiverStream::new(parts);
        match resumable {
            true => Self::Opening(Box::pin(async move { files.write(parts).await })),
            false => Self::Put(Box::pin(async move { files.put(parts).await })),
        }
    }

    /// Cancel-safe; not to be asked again after the end.
    pub(crate) async fn next(&mut self) -> Result<Answer, Status> {
        loop {
            match self {
                Self::Put(call) => return call.await.map(|answer| Answer::Done(answer.into_inner())),
                Self::Opening(call) => *self = Self::Open(call.await?.into_inner()),
                Self::Open(answers) => {
                    return match answers.message().await? {
                        Some(WriteProgress { done: Some(done), .. }) => Ok(Answer::Done(done)),
                        Some(WriteProgress { length, done: None }) => Ok(Answer::There(length)),
                        None => Err(Status::internal("the agent ended the file early; try again")),
                    };
                }
            }
        }
    }
}
