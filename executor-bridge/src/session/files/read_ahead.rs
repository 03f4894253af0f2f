//! A file that a client passed, on its way into the pod: read and summed up on a thread of its own, data and holes, some pieces
//! ahead of the link.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use podbridge_proto::limits::MAX_CHUNK;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use crate::protocol::result::Outcome;
use crate::session::files::passed_file::{Extent, LocalFile};
use crate::session::files::running_digest::{self, Sums};

/// Read and not yet taken.
const AHEAD: usize = 4;

#[derive(Debug)]
pub(crate) enum Piece {
    Data(Bytes),
    Hole(u64),
    End,
}

/// The content from `from` on. A file that is read again is summed up once.
pub(crate) fn read(
    file: &LocalFile,
    from: u64,
    sums: Arc<Mutex<Sums>>,
    holes: bool,
) -> mpsc::Receiver<Result<Piece, Outcome>> {
    let (pieces, receiver) = mpsc::channel(AHEAD);
    let file = file.clone();
    spawn_blocking(move || {
        let mut reading = Reading {
            file,
            offset: from,
            data_until: if holes { from } else { u64::MAX },
        };
        loop {
            let offset = reading.offset;
            let piece = reading.next();
            let mut sums = sums.lock().unwrap_or_else(PoisonError::into_inner);
            let over = match &piece {
                Ok(Piece::Data(data)) => {
                    sums.cover(offset, &running_digest::Piece::Data(data));
                    false
                }
                Ok(Piece::Hole(count)) => {
                    sums.cover(offset, &running_digest::Piece::Hole(*count));
                    false
                }
                Ok(Piece::End) | Err(_) => true,
            };
            drop(sums);
            if pieces.blocking_send(piece).is_err() || over {
                return;
            }
        }
    });
    receiver
}

struct Reading {
    file: LocalFile,
    offset: u64,
    /// No hole begins before.
    data_until: u64,
}

impl Reading {
    fn next(&mut self) -> Result<Piece, Outcome> {
        if self.offset >= self.data_until {
            match self.file.extent(self.offset)? {
                Extent::Data(until) => self.data_until = until,
                Extent::Hole(count) => {
                    self.offset += count;
                    return Ok(Piece::Hole(count));
                }
            }
        }
        let wanted = (self.data_until - self.offset).min(MAX_CHUNK as u64) as usize;
        let data = self.file.read_now(self.offset, wanted)?;
        if data.is_empty() {
            self.file.check_unchanged()?;
            return Ok(Piece::End);
        }
        self.offset += data.len() as u64;
        Ok(Piece::Data(data))
    }
}
