//! A file on its way out of the pod: into a descriptor that the client passed, written and summed up on a thread that may wait
//! for a disk, or to the client as frames.

use bytes::Bytes;
use podbridge_proto::digest::ZEROS;
use podbridge_proto::v1::Digest;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::error::Failure;
use crate::protocol::frame::{Frame, MAX_LENGTH};
use crate::protocol::result::{Ended, Outcome};
use crate::session::files::passed_file::LocalFile;
use crate::session::files::running_digest::{self, Sums};

/// Pieces that wait for the disk.
const BEHIND: usize = 4;

#[derive(Debug)]
pub(crate) enum Piece {
    Data(Bytes),
    Hole(u64),
    /// The link broke here.
    Cut,
}

pub(crate) enum Landing {
    File {
        pieces: mpsc::Sender<Piece>,
        writing: JoinHandle<Result<Sums, Outcome>>,
    },
    Frames {
        replies: mpsc::Sender<Frame>,
        sums: Sums,
    },
}

impl Landing {
    pub(crate) fn new(file: Option<&LocalFile>, replies: &mpsc::Sender<Frame>, digest: Digest) -> Self {
        match file {
            Some(file) => {
                let (pieces, queue) = mpsc::channel(BEHIND);
                let file = file.clone();
                let writing = spawn_blocking(move || write(&file, queue, Sums::new(digest)));
                Self::File { pieces, writing }
            }
            None => Self::Frames {
                replies: replies.clone(),
                sums: Sums::new(digest),
            },
        }
    }

    /// `Err`: it cannot go on.
    pub(crate) async fn take(&mut self, piece: Piece) -> Result<(), Outcome> {
        match self {
            Self::File { pieces, writing } => match pieces.send(piece).await {
                Ok(()) => Ok(()),
                // The writer has given up, and says why.
                Err(_) => Err(joined(writing.await).err().unwrap_or_else(gone)),
            },
            Self::Frames { replies, sums } => {
                match &piece {
                    Piece::Data(data) => sums.add(&running_digest::Piece::Data(data)),
                    Piece::Hole(count) => sums.add(&running_digest::Piece::Hole(*count)),
                    Piece::Cut => sums.begin_part(),
                }
                print(replies, piece).await
            }
        }
    }

    /// All that came is where it belongs; the digests of it.
    pub(crate) async fn finish(self) -> Result<Sums, Outcome> {
        match self {
            Self::File { pieces, writing } => {
                drop(pieces);
                joined(writing.await)
            }
            Self::Frames { sums, .. } => Ok(sums),
        }
    }
}

fn gone() -> Outcome {
    Outcome::Cancelled(Ended::default())
}

fn joined(writing: Result<Result<Sums, Outcome>, tokio::task::JoinError>) -> Result<Sums, Outcome> {
    writing.unwrap_or_else(|_| Err(Outcome::Lost(Failure::bug("the file's writer failed"))))
}

async fn print(replies: &mpsc::Sender<Frame>, piece: Piece) -> Result<(), Outcome> {
    let send = async |data| replies.send(Frame::Stdout(data)).await.map_err(|_| gone());
    match piece {
        Piece::Data(data) if data.len() >= MAX_LENGTH => {
            Err(Outcome::Lost(Failure::bug("the agent sent more at once than it may")))
        }
        Piece::Data(data) => send(data).await,
        Piece::Hole(mut count) => {
            while count > 0 {
                let part = count.min(ZEROS.len() as u64);
                send(Bytes::from_static(&ZEROS[..part as usize])).await?;
                count -= part;
            }
            Ok(())
        }
        Piece::Cut => Ok(()),
    }
}

fn write(file: &LocalFile, mut pieces: mpsc::Receiver<Piece>, mut sums: Sums) -> Result<Sums, Outcome> {
    // What is not written is a hole then.
    file.truncate_now(0)?;
    while let Some(piece) = pieces.blocking_recv() {
        match piece {
            Piece::Data(data) => {
                file.write_now(sums.length(), &data)?;
                sums.add(&running_digest::Piece::Data(&data));
            }
            Piece::Hole(count) => sums.add(&running_digest::Piece::Hole(count)),
            Piece::Cut => sums.begin_part(),
        }
    }
    file.truncate_now(sums.length())?;
    Ok(sums)
}
