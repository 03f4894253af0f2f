//! Reads a file ahead of its receiver, no further than all receivers together may have in memory. A receiver that stands still keeps its
//! own file waiting and nobody else: no thread waits for it, and the files of others are read on in smaller parts. `rpc::files` uses it.

use std::sync::Arc;

use podbridge_proto::digest::ContentDigest;
use podbridge_proto::limits::MAX_CHUNK;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::hole_digest::hash_zeros;
use super::{Chunk, Error, FileReader, run_blocking};

/// Chunks that are read and not yet taken, of all files together: 4 MiB.
const CHUNKS_AHEAD: usize = 32;
/// Bytes of one chunk of each file, of all files together: the connection keeps what a receiver has not room for.
const CHUNKS_OF_ALL: usize = 4 << 20;
/// Chunks of one file that wait for its receiver.
const MAX_QUEUED_CHUNKS: usize = 8;
/// Most chunks that are read in one step on a thread, which costs more than a read.
const STEP_CHUNKS: usize = 16;
/// Fewest bytes of a chunk that is read ahead.
const LARGE_CHUNK: usize = 32 << 10;
/// Bytes of a chunk that is read when the receiver waits for it.
const SMALL_CHUNK: usize = 8 << 10;

/// What is read of a file.
#[derive(Debug)]
pub enum ReadPart {
    Chunk(Chunk),
    /// Length and digest of the whole.
    End(u64, ContentDigest),
}

/// A part until it is taken.
#[derive(Debug)]
pub struct QueuedPart {
    part: Result<ReadPart, Error>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl QueuedPart {
    fn unlimited(part: Result<ReadPart, Error>) -> Self {
        Self { part, _permit: None }
    }

    /// Takes the part out of the memory for waiting ones.
    pub fn take(self) -> Result<ReadPart, Error> {
        self.part
    }
}

/// The memory for all files that are being read.
#[derive(Debug, Clone)]
pub struct ReadAhead(Arc<Semaphore>);

impl Default for ReadAhead {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(CHUNKS_AHEAD)))
    }
}

impl ReadAhead {
    /// Reads a file to its end or to an error, until the receiver is gone.
    pub fn start(&self, reader: FileReader) -> mpsc::Receiver<QueuedPart> {
        let (parts, receiver) = mpsc::channel(MAX_QUEUED_CHUNKS);
        tokio::spawn(self.clone().read(reader, parts));
        receiver
    }

    async fn read(mut self, mut reader: FileReader, parts: mpsc::Sender<QueuedPart>) {
        loop {
            // Without memory for waiting chunks, the next small one is read when its receiver has taken the last.
            let room = if self.has_memory() { 1 } else { MAX_QUEUED_CHUNKS };
            if parts.reserve_many(room).await.is_err() {
                return;
            }
            let queue = parts.clone();
            let step = async {
                let read = run_blocking(move || Ok((self.read_step(reader, &queue), self)));
                let (Some(rest), ahead) = read.await? else {
                    return Ok(None);
                };
                let rest = hash_zeros(rest, |rest| &mut rest.digest, || !parts.is_closed()).await?;
                Ok(Some((rest, ahead)))
            };
            match step.await {
                Ok(Some(rest)) => (reader, self) = rest,
                Ok(None) => return,
                Err(error) => {
                    let _ = parts.send(QueuedPart::unlimited(Err(error))).await;
                    return;
                }
            }
        }
    }

    fn has_memory(&self) -> bool {
        self.chunk_size() >= LARGE_CHUNK && self.0.available_permits() > 0
    }

    /// Returns the size of a chunk that may wait. Each file that is read has a handle of the semaphore, as has the service.
    fn chunk_size(&self) -> usize {
        (CHUNKS_OF_ALL / Arc::strong_count(&self.0)).min(MAX_CHUNK)
    }

    /// Reads chunks as long as they have room, up to a long hole, whose zeros are hashed after the step; returns the reader if the file has
    /// more. Blocks for no receiver.
    fn read_step(&self, mut reader: FileReader, parts: &mpsc::Sender<QueuedPart>) -> Option<FileReader> {
        for _ in 0..STEP_CHUNKS {
            let is_empty = parts.capacity() == MAX_QUEUED_CHUNKS;
            let Ok(slot) = parts.try_reserve() else {
                break;
            };
            let size = self.chunk_size();
            let permit = self.0.clone().try_acquire_owned().ok().filter(|_| size >= LARGE_CHUNK);
            // One small part for each file does not count.
            let size = match permit {
                Some(_) => size,
                None if is_empty => SMALL_CHUNK,
                None => break,
            };
            let part = match reader.read(size) {
                Ok(Chunk::End) => {
                    let (length, digest) = reader.finish();
                    slot.send(QueuedPart::unlimited(Ok(ReadPart::End(length, digest))));
                    return None;
                }
                Ok(chunk) => ReadPart::Chunk(chunk),
                Err(error) => {
                    slot.send(QueuedPart::unlimited(Err(error)));
                    return None;
                }
            };
            slot.send(QueuedPart {
                part: Ok(part),
                _permit: permit,
            });
            if reader.digest.has_zeros() {
                break;
            }
        }
        Some(reader)
    }
}

#[cfg(test)]
mod tests {
    use podbridge_proto::digest::ContentHasher;

    use super::super::Location;
    use super::*;

    fn open(path: &std::path::Path) -> FileReader {
        let location = Location {
            path: path.to_owned(),
            ..Location::default()
        };
        FileReader::open(&location, 0, ContentHasher::Blake3(Box::default()), false).unwrap()
    }

    #[tokio::test]
    async fn receivers_that_stand_still_keep_no_other_from_the_end_of_its_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let content = vec![7; 20 * MAX_CHUNK + 1];
        std::fs::write(file.path(), &content).unwrap();
        let ahead = ReadAhead::default();
        let standing: Vec<_> = (0..600).map(|_| ahead.start(open(file.path()))).collect();
        while standing.iter().any(mpsc::Receiver::is_empty) {
            tokio::task::yield_now().await;
        }
        let mut moving = ahead.start(open(file.path()));
        let mut read = Vec::new();
        loop {
            match moving.recv().await.unwrap().take().unwrap() {
                ReadPart::Chunk(Chunk::Data(data)) => read.extend_from_slice(&data),
                ReadPart::Chunk(other) => panic!("{other:?}"),
                ReadPart::End(length, digest) => {
                    let mut hasher = ContentHasher::Blake3(Box::default());
                    hasher.update(&content);
                    assert_eq!((length, digest), (content.len() as u64, hasher.digest()));
                    break;
                }
            }
        }
        assert!(read == content);
        let waiting: usize = standing.iter().map(mpsc::Receiver::len).sum();
        assert!(waiting <= CHUNKS_AHEAD + standing.len(), "{waiting}");
        drop((standing, moving));
        while ahead.0.available_permits() < CHUNKS_AHEAD {
            tokio::task::yield_now().await;
        }
    }
}
