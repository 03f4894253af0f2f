//! Reads a passed file on a blocking thread, a few parts ahead of the link, and hashes it. `put_source` uses it.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use podbridge_proto::limits::MAX_CHUNK;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use crate::protocol::result::Outcome;
use crate::session::files::passed_file::{Extent, LocalFile};
use crate::session::files::running_digest::{DigestInput, RunningDigest};

/// Parts that are read and not yet taken.
const QUEUED_PARTS: usize = 4;

/// One part of a file's content.
#[derive(Debug)]
pub(crate) enum ContentPart {
    Data(Bytes),
    Hole(u64),
    End,
}

/// Reads the content from `from` on. A range that is read again is hashed once. `holes`: the agent knows holes.
pub(crate) fn read(
    file: &LocalFile,
    from: u64,
    digest: Arc<Mutex<RunningDigest>>,
    holes: bool,
) -> mpsc::Receiver<Result<ContentPart, Outcome>> {
    let (parts, receiver) = mpsc::channel(QUEUED_PARTS);
    let file = file.clone();
    spawn_blocking(move || {
        let mut reader = ContentReader {
            file,
            offset: from,
            data_until: if holes { from } else { u64::MAX },
        };
        loop {
            let offset = reader.offset;
            let part = reader.next();
            let mut digest = digest.lock().unwrap_or_else(PoisonError::into_inner);
            let is_last = match &part {
                Ok(ContentPart::Data(data)) => {
                    digest.add_unseen(offset, &DigestInput::Data(data));
                    false
                }
                Ok(ContentPart::Hole(count)) => {
                    digest.add_unseen(offset, &DigestInput::Hole(*count));
                    false
                }
                Ok(ContentPart::End) | Err(_) => true,
            };
            drop(digest);
            if parts.blocking_send(part).is_err() || is_last {
                return;
            }
        }
    });
    receiver
}

/// Position in the file.
struct ContentReader {
    file: LocalFile,
    offset: u64,
    /// Offset before which no hole starts.
    data_until: u64,
}

impl ContentReader {
    fn next(&mut self) -> Result<ContentPart, Outcome> {
        if self.offset >= self.data_until {
            match self.file.extent(self.offset)? {
                Extent::Data(until) => self.data_until = until,
                Extent::Hole(count) => {
                    self.offset += count;
                    return Ok(ContentPart::Hole(count));
                }
            }
        }
        let until = self.data_until.min(self.file.end());
        let wanted = until.saturating_sub(self.offset).min(MAX_CHUNK as u64) as usize;
        let data = self.file.read_now(self.offset, wanted)?;
        if data.is_empty() {
            self.file.check_unchanged()?;
            return Ok(ContentPart::End);
        }
        self.offset += data.len() as u64;
        Ok(ContentPart::Data(data))
    }
}
