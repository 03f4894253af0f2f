//! One stream of one exec: where its bytes are, by offset. `[floor, start)` is in the ring file and `[start, end)` in memory; bytes
//! below the floor are dropped. It decides and does no I/O; `Spool` calls it under its lock.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use podbridge_proto::limits::MAX_EXEC_WINDOW;

use super::ring::{FileRefusal, RING_CAPACITY, Ring};
use super::store::Store;

/// Most unread bytes in memory.
pub(super) const UNREAD_LIMIT: u64 = 2 << 20;
/// Fewest bytes kept after a reader has read them, so that a cut connection can resume: more than the windows and buffers of a connection.
pub(super) const RESUME_WINDOW: u64 = 4 << 20;
/// Bytes that a connection may have taken beyond the window of a stream.
const CONNECTION_BUFFERS: u64 = 2 << 20;
/// Replaces either of the two limits while the memory of all streams is short.
const SCARCE_LIMIT: u64 = 64 << 10;
/// Allowance above both limits: a chunk that is being written, and a chunk that is read only in part.
const MEMORY_SLACK: u64 = 256 << 10;
/// Most bytes of one chunk.
pub(super) const CHUNK_LIMIT: u64 = 64 << 10;

/// Fate of unread output when the spool is full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Overflow {
    /// The command waits, as on a full pipe.
    #[default]
    Block,
    /// The oldest bytes are dropped.
    DropOldest,
}

/// Result of a read at one offset.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    Data(Bytes),
    /// Number of bytes that are dropped, from the offset on.
    Gap(u64),
    /// There is no output yet.
    Wait,
    /// The stream is closed, and the offset is at its end.
    End,
}

/// Location of the bytes at an offset.
#[derive(Debug)]
pub(super) enum Location {
    /// No file is needed.
    Ready(Read),
    /// The ring file, and the number of bytes to read from it.
    InFile(Arc<File>, usize),
}

/// Next step towards a stream that holds no more in memory than its limit.
#[derive(Debug)]
pub(super) enum Step {
    Done,
    /// Write this chunk to the file, then call `finish_move`.
    Move {
        file: Arc<File>,
        offset: u64,
        chunk: Bytes,
    },
}

/// Where the bytes of one stream are, and how far its readers have come.
#[derive(Debug, Default)]
pub(super) struct Stream {
    /// Chunks in memory, each with the offset of its first byte.
    chunks: VecDeque<(u64, Bytes)>,
    /// Offset of the first byte that can still be read.
    floor: u64,
    /// Offset of the next byte to come.
    end: u64,
    /// Furthest offset that any reader has reached.
    taken: u64,
    /// Largest flow-control window that a reader has named.
    window: u64,
    ring: Ring,
    pub(super) closed: bool,
    /// True if output waits, and no reader has read for `STALL_AFTER`.
    pub(super) stalled: bool,
    /// True if the files of all execs have reached their limit.
    disk_is_full: bool,
    /// Error of the ring file; it takes nothing more.
    pub(super) file_error: Option<String>,
}

impl Stream {
    /// Returns the offset of the first byte in memory.
    fn start(&self) -> u64 {
        self.chunks.front().map_or(self.end, |(start, _)| *start)
    }

    pub(super) fn in_memory(&self) -> u64 {
        self.end - self.start()
    }

    pub(super) fn end(&self) -> u64 {
        self.end
    }

    pub(super) fn floor(&self) -> u64 {
        self.floor
    }

    pub(super) fn push(&mut self, data: Bytes, store: &Store) {
        let start = self.end;
        self.end += data.len() as u64;
        store.add_memory(data.len() as u64);
        self.chunks.push_back((start, data));
    }

    /// Finds at most `max` bytes from `offset` on.
    pub(super) fn locate(&self, offset: u64, max: usize) -> Location {
        if offset >= self.end {
            return Location::Ready(if self.closed { Read::End } else { Read::Wait });
        }
        if offset < self.floor {
            return Location::Ready(Read::Gap(self.floor - offset));
        }
        let start = self.start();
        if offset < start {
            let length = usize::try_from(start - offset).map_or(max, |length| length.min(max));
            let file = self.ring.file().expect("what is below memory is in the file");
            return Location::InFile(file, length);
        }
        Location::Ready(Read::Data(self.gather(offset, max)))
    }

    /// Returns at most `max` bytes from memory.
    fn gather(&self, offset: u64, max: usize) -> Bytes {
        let index = self.chunks.partition_point(|(start, _)| *start <= offset) - 1;
        let (start, chunk) = &self.chunks[index];
        let head = chunk.slice((offset - start) as usize..);
        // A long chunk is returned without a copy; short ones are copied into one.
        if head.len() >= max / 4 || index + 1 == self.chunks.len() {
            return head.slice(..head.len().min(max));
        }
        let mut gathered = BytesMut::with_capacity(max);
        gathered.extend_from_slice(&head[..head.len().min(max)]);
        for (_, chunk) in self.chunks.range(index + 1..) {
            let space = max - gathered.len();
            gathered.extend_from_slice(&chunk[..chunk.len().min(space)]);
            if gathered.len() == max {
                break;
            }
        }
        gathered.freeze()
    }

    /// Records the flow-control window of a reader.
    pub(super) fn widen(&mut self, window: u64) {
        self.window = self.window.max(window.min(MAX_EXEC_WINDOW.into()));
    }

    /// Returns how much is kept after a reader has read it.
    fn resume_window(&self) -> u64 {
        RESUME_WINDOW.max(self.window + CONNECTION_BUFFERS)
    }

    /// Returns the most bytes that the stream keeps in memory.
    fn memory_limit(&self, store: &Store) -> u64 {
        if store.memory_is_short() {
            2 * SCARCE_LIMIT
        } else {
            UNREAD_LIMIT + self.resume_window() + MEMORY_SLACK
        }
    }

    /// Records that a reader has everything below `offset`.
    pub(super) fn take(&mut self, offset: u64, store: &Store) {
        let offset = offset.min(self.end);
        if offset > self.taken {
            self.taken = offset;
            self.stalled = false;
        }
        let kept = if store.memory_is_short() && !store.has_files() {
            SCARCE_LIMIT
        } else {
            self.resume_window()
        };
        self.drop_below(self.taken.saturating_sub(kept), store);
    }

    /// Drops the bytes below `floor`, which no reader needs; in memory, whole chunks only.
    fn drop_below(&mut self, floor: u64, store: &Store) {
        if floor < self.start() {
            self.floor = self.floor.max(floor);
            return;
        }
        while self
            .chunks
            .front()
            .is_some_and(|(start, chunk)| start + chunk.len() as u64 <= floor)
        {
            self.pop(store);
        }
        self.floor = self.start();
        self.ring.clear(store);
    }

    fn pop(&mut self, store: &Store) {
        if let Some((_, chunk)) = self.chunks.pop_front() {
            store.subtract_memory(chunk.len() as u64);
        }
    }

    /// Returns true if the stream can take one more chunk. Valid after `next_step` has returned `Done`.
    pub(super) fn may_grow(&self, overflow: Overflow, store: &Store) -> bool {
        let ahead = if store.memory_is_short() {
            SCARCE_LIMIT
        } else {
            UNREAD_LIMIT
        };
        overflow == Overflow::DropOldest
            || self.end - self.taken < ahead
            // While a reader reads, the command waits for it; the file is for the time when none does.
            || (self.stalled && self.file_takes(CHUNK_LIMIT, store) && self.in_memory() <= self.memory_limit(store))
    }

    /// Returns true if time alone may change the answer of `may_grow`.
    pub(super) fn may_grow_with_time(&self, store: &Store) -> bool {
        !self.stalled && store.has_files() || self.disk_is_full
    }

    /// Returns true if the ring file can hold `bytes` more.
    fn file_takes(&self, bytes: u64, store: &Store) -> bool {
        store.has_files() && self.file_error.is_none() && self.start() + bytes - self.floor <= RING_CAPACITY
    }

    /// Returns the next step to bring memory back under its limit. With `DropOldest` it also drops what no file takes.
    pub(super) fn next_step(&mut self, overflow: Overflow, store: &Store) -> Step {
        while self.in_memory() > self.memory_limit(store) {
            let Some((offset, chunk)) = self.chunks.front().cloned() else {
                return Step::Done;
            };
            let length = chunk.len() as u64;
            let drops = overflow == Overflow::DropOldest;
            if drops && store.has_files() && self.file_error.is_none() {
                self.floor = self.floor.max((offset + length).saturating_sub(RING_CAPACITY));
            }
            let file = if self.file_takes(length, store) {
                self.ring.prepare(store, length)
            } else {
                Err(FileRefusal::Limit)
            };
            self.disk_is_full = false;
            match file {
                Ok(file) => return Step::Move { file, offset, chunk },
                Err(FileRefusal::Broken(reason)) => self.file_error = Some(reason),
                Err(FileRefusal::Limit) if !drops => {
                    self.disk_is_full = store.has_files() && self.file_error.is_none();
                    return Step::Done;
                }
                Err(FileRefusal::Limit) => {
                    self.pop(store);
                    self.floor = self.start();
                    self.ring.clear(store);
                }
            }
        }
        Step::Done
    }

    /// Removes the chunk at `offset` from memory after it was written to `file`. Does nothing if the ring has another file by now,
    /// or a reader has read the chunk meanwhile.
    pub(super) fn finish_move(&mut self, file: &Arc<File>, offset: u64, store: &Store) {
        let same = self.ring.file().is_some_and(|now| Arc::ptr_eq(&now, file));
        if same && self.start() == offset {
            self.pop(store);
        }
    }

    /// Drops everything, and returns its memory and disk to the store.
    pub(super) fn clear(&mut self, store: &Store) {
        store.subtract_memory(self.in_memory());
        self.chunks.clear();
        self.ring.clear(store);
    }
}
