//! Reads a passed file, a few parts ahead of the link, and hashes it. `put_source` uses it.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::FutureExt as _;
use podbridge_proto::limits::MAX_CHUNK;
use tokio::sync::mpsc;

use crate::protocol::result::Outcome;
use crate::session::budget::{InputCredit, InputShare};
use crate::session::files::disk_turns::on_disk;
use crate::session::files::passed_file::{Extent, LocalFile};
use crate::session::files::running_digest::{DigestInput, RunningDigest};

/// Parts that are read in one step.
const STEP_PARTS: usize = 4;
/// Parts that are read and not yet taken: while the parts of one step are sent, the next step reads.
const QUEUED_PARTS: usize = 2 * STEP_PARTS;
/// Longest hole that is hashed in one step, bytes: a few milliseconds.
const LONGEST_HOLE: u64 = 16 << 20;

/// One part of a file's content.
#[derive(Debug)]
pub(crate) enum ContentPart {
    Data(Bytes),
    Hole(u64),
    End,
}

/// A part, or why there is none, with the permission to hold it.
pub(crate) type ReadPart = (Result<ContentPart, Outcome>, InputCredit);

/// Reads the content from `from` on. A range that is read again is hashed once. `holes`: the agent knows holes.
pub(crate) fn read(
    file: &LocalFile,
    from: u64,
    digest: Arc<Mutex<RunningDigest>>,
    holes: bool,
    share: InputShare,
) -> mpsc::Receiver<ReadPart> {
    let (parts, receiver) = mpsc::channel(QUEUED_PARTS);
    let mut reader = ContentReader {
        file: file.clone(),
        offset: from,
        data_until: if holes { from } else { u64::MAX },
    };
    tokio::spawn(async move {
        loop {
            // An agent that reads nothing keeps the credits, also after the transfer has ended; the file is closed then.
            let first = tokio::select! {
                credit = share.charge(MAX_CHUNK) => credit,
                () = parts.closed() => return,
            };
            let mut credits = vec![first];
            while credits.len() < STEP_PARTS
                && let Some(credit) = share.charge(MAX_CHUNK).now_or_never()
            {
                credits.push(credit);
            }
            let Ok(permits) = parts.reserve_many(credits.len()).await else {
                return;
            };
            let digest = digest.clone();
            let read = on_disk(move || {
                let read = reader.step(credits, &digest);
                Ok((reader, read))
            });
            let read = match read.await {
                Ok((next, read)) => {
                    reader = next;
                    read
                }
                Err(outcome) => {
                    if let Some(permit) = permits.into_iter().next() {
                        permit.send((Err(outcome), share.charge(0).await));
                    }
                    return;
                }
            };
            let is_last = read.last().is_some_and(|(part, _)| ends(part));
            for (permit, part) in permits.zip(read) {
                permit.send(part);
            }
            if is_last {
                return;
            }
        }
    });
    receiver
}

fn ends(part: &Result<ContentPart, Outcome>) -> bool {
    matches!(part, Ok(ContentPart::End) | Err(_))
}

/// Position in the file.
struct ContentReader {
    file: LocalFile,
    offset: u64,
    /// Offset before which no hole starts.
    data_until: u64,
}

impl ContentReader {
    /// Reads and hashes a part for each credit, fewer at the end of the file or after a hole, which may take long to hash.
    fn step(&mut self, credits: Vec<InputCredit>, digest: &Mutex<RunningDigest>) -> Vec<ReadPart> {
        let mut read = Vec::with_capacity(credits.len());
        for credit in credits {
            let offset = self.offset;
            let part = self.next(credit.bytes());
            let mut digest = digest.lock().unwrap_or_else(PoisonError::into_inner);
            let goes_on = match &part {
                Ok(ContentPart::Data(data)) => {
                    digest.add_unseen(offset, &DigestInput::Data(data));
                    true
                }
                Ok(ContentPart::Hole(count)) => {
                    digest.add_unseen(offset, &DigestInput::Hole(*count));
                    false
                }
                Ok(ContentPart::End) | Err(_) => false,
            };
            drop(digest);
            read.push((part, credit));
            if !goes_on {
                break;
            }
        }
        read
    }

    fn next(&mut self, longest: usize) -> Result<ContentPart, Outcome> {
        if self.offset >= self.data_until {
            match self.file.extent(self.offset)? {
                Extent::Data(until) => self.data_until = until,
                Extent::Hole(count) => {
                    let count = count.min(LONGEST_HOLE);
                    self.offset += count;
                    return Ok(ContentPart::Hole(count));
                }
            }
        }
        let until = self.data_until.min(self.file.end());
        let wanted = until.saturating_sub(self.offset).min(longest as u64) as usize;
        let data = self.file.read_now(self.offset, wanted)?;
        if data.is_empty() {
            self.file.check_unchanged()?;
            return Ok(ContentPart::End);
        }
        self.offset += data.len() as u64;
        Ok(ContentPart::Data(data))
    }
}
