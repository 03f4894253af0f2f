//! Reads a file ahead of its receiver, no further than all receivers together may have in memory. A receiver that stands still keeps its
//! own file waiting and nobody else: no thread waits for it, and the files of others are read on in smaller parts. `rpc::files` uses it.

use std::sync::Arc;

use podbridge_proto::digest::ContentDigest;
use podbridge_proto::limits::MAX_CHUNK;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::{Chunk, Error, FileReader, run_blocking};

/// Chunks that are read and not yet taken, of all files together: 4 MiB.
const CHUNKS_AHEAD: usize = 32;
/// Bytes of one chunk of each file, of all files together: the connection keeps what a receiver has not room for.
const CHUNKS_OF_ALL: usize = 4 << 20;
/// Chunks of one file that wait for its receiver.
const MAX_QUEUED_CHUNKS: usize = 4;
/// Chunks that are read at once: a thread costs more than a read.
const CHUNKS_PER_READ: u32 = 2;
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

    async fn read(self, mut reader: FileReader, parts: mpsc::Sender<QueuedPart>) {
        loop {
            let Ok((count, size, mut permits)) = self.next_read(&parts).await else {
                return;
            };
            let read = run_blocking(move || Ok(read_parts(reader, count, size))).await;
            let (rest, found) = read.unwrap_or_else(|error| (None, vec![Err(error)]));
            for part in found {
                let queued = QueuedPart {
                    part,
                    _permit: permits.as_mut().and_then(|permits| permits.split(1)),
                };
                if parts.send(queued).await.is_err() {
                    return;
                }
            }
            match rest {
                Some(rest) => reader = rest,
                None => return,
            }
        }
    }

    /// Waits until more can be read; returns how many chunks of which size. `Err`: the receiver is gone.
    async fn next_read(
        &self,
        parts: &mpsc::Sender<QueuedPart>,
    ) -> Result<(u32, usize, Option<OwnedSemaphorePermit>), mpsc::error::SendError<()>> {
        parts.reserve().await?;
        // Each file that is read has a handle of the semaphore, as has the service.
        let size = (CHUNKS_OF_ALL / Arc::strong_count(&self.0)).min(MAX_CHUNK);
        if size >= LARGE_CHUNK
            && let Ok(permits) = self.0.clone().try_acquire_many_owned(CHUNKS_PER_READ)
        {
            return Ok((CHUNKS_PER_READ, size, Some(permits)));
        }
        // There are many files, or their receivers stand still and have all the memory. One small part for each file does not count.
        parts.reserve_many(MAX_QUEUED_CHUNKS).await?;
        Ok((1, SMALL_CHUNK, None))
    }
}

/// Reads some chunks; the reader is `None` after the last part. Blocks.
fn read_parts(mut reader: FileReader, count: u32, size: usize) -> (Option<FileReader>, Vec<Result<ReadPart, Error>>) {
    let mut parts = Vec::new();
    for _ in 0..count {
        match reader.read(size) {
            Ok(Chunk::End) => {
                let (length, digest) = reader.finish();
                parts.push(Ok(ReadPart::End(length, digest)));
                return (None, parts);
            }
            Ok(chunk) => parts.push(Ok(ReadPart::Chunk(chunk))),
            Err(error) => {
                parts.push(Err(error));
                return (None, parts);
            }
        }
    }
    (Some(reader), parts)
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
