//! One stream of one exec: what is where, by offset. `[floor, start)` is in the ring, `[start, end)` in memory; below the
//! floor nothing can be read any more. It decides, and does no I/O.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::ring::{FileRefusal, RING_CAPACITY, Ring};
use super::store::Store;

/// Bytes that may wait in memory for a first reader.
pub(super) const UNREAD_LIMIT: u64 = 2 << 20;
/// Bytes kept after a reader has taken them: more than the windows and buffers of one connection hold.
pub(super) const RESUME_WINDOW: u64 = 4 << 20;
/// Either of them, while the memory of all streams is short.
const SCARCE_LIMIT: u64 = 64 << 10;
/// Beyond both: a chunk on its way in, and one that is taken only in part.
const MEMORY_SLACK: u64 = 256 << 10;
/// Largest chunk.
pub(super) const CHUNK_LIMIT: u64 = 64 << 10;

/// What happens to output that nobody reads, when the spool is full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Overflow {
    /// The command waits, as on a full pipe.
    #[default]
    Block,
    /// The oldest bytes go.
    DropOldest,
}

/// The answer to a read at one offset.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Read {
    Data(Bytes),
    /// So many bytes from the offset on are gone.
    Gap(u64),
    /// Nothing yet.
    Wait,
    End,
}

/// Where the bytes at an offset are.
#[derive(Debug)]
pub(super) enum Location {
    Ready(Read),
    /// So many of them, in this file.
    InFile(Arc<File>, usize),
}

/// The next step to a stream that holds no more in memory than it may.
#[derive(Debug)]
pub(super) enum Step {
    Done,
    /// This chunk goes to the file; `moved` when it is there.
    Move {
        file: Arc<File>,
        offset: u64,
        chunk: Bytes,
    },
}

#[derive(Debug, Default)]
pub(super) struct Stream {
    chunks: VecDeque<(u64, Bytes)>,
    /// First byte that can be read.
    floor: u64,
    /// The next byte to come.
    end: u64,
    /// Furthest offset that any reader has reached.
    taken: u64,
    ring: Ring,
    pub(super) closed: bool,
    /// Output waits, and nobody has read for a while.
    pub(super) stalled: bool,
    /// The files of all execs are at their limit.
    disk_is_full: bool,
    /// Why the file takes nothing.
    pub(super) file_error: Option<String>,
}

impl Stream {
    /// Of what is in memory.
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

    /// From memory.
    fn gather(&self, offset: u64, max: usize) -> Bytes {
        let index = self.chunks.partition_point(|(start, _)| *start <= offset) - 1;
        let (start, chunk) = &self.chunks[index];
        let head = chunk.slice((offset - start) as usize..);
        // A long chunk goes as it is, without a copy; short ones are gathered.
        if head.len() >= max / 4 || index + 1 == self.chunks.len() {
            return head.slice(..head.len().min(max));
        }
        let mut gathered = BytesMut::with_capacity(max);
        gathered.extend_from_slice(&head[..head.len().min(max)]);
        for (_, chunk) in self.chunks.range(index + 1..) {
            let room = max - gathered.len();
            gathered.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if gathered.len() == max {
                break;
            }
        }
        gathered.freeze()
    }

    /// A reader has everything below `offset`.
    pub(super) fn take(&mut self, offset: u64, store: &Store) {
        let offset = offset.min(self.end);
        if offset > self.taken {
            self.taken = offset;
            self.stalled = false;
        }
        let behind = match store.memory_is_short() && !store.has_files() {
            true => SCARCE_LIMIT,
            false => RESUME_WINDOW,
        };
        self.drop_below(self.taken.saturating_sub(behind), store);
    }

    /// Nobody needs what is below `floor`; of pieces in memory only whole ones go.
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

    /// May another chunk come in? To be asked when `step` says `Done`.
    pub(super) fn may_grow(&self, overflow: Overflow, store: &Store) -> bool {
        let ahead = if store.memory_is_short() {
            SCARCE_LIMIT
        } else {
            UNREAD_LIMIT
        };
        overflow == Overflow::DropOldest
            || self.end - self.taken < ahead
            // A reader that reads sets the pace; the file is for the time when there is none.
            || (self.stalled && self.file_takes(CHUNK_LIMIT, store) && self.in_memory() <= memory_limit(store))
    }

    /// Time alone may change the answer of `may_grow`.
    pub(super) fn may_grow_with_time(&self, store: &Store) -> bool {
        !self.stalled && store.has_files() || self.disk_is_full
    }

    fn file_takes(&self, bytes: u64, store: &Store) -> bool {
        store.has_files() && self.file_error.is_none() && self.start() + bytes - self.floor <= RING_CAPACITY
    }

    pub(super) fn next_step(&mut self, overflow: Overflow, store: &Store) -> Step {
        while self.in_memory() > memory_limit(store) {
            let Some((offset, chunk)) = self.chunks.front().cloned() else {
                return Step::Done;
            };
            let length = chunk.len() as u64;
            let drops = overflow == Overflow::DropOldest;
            if drops && store.has_files() && self.file_error.is_none() {
                self.floor = self.floor.max((offset + length).saturating_sub(RING_CAPACITY));
            }
            let file = match self.file_takes(length, store) {
                true => self.ring.prepare(store, length),
                false => Err(FileRefusal::Limit),
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

    /// The chunk at `offset` is in the file, unless that is another one by now: then it is still in memory, or taken.
    pub(super) fn finish_move(&mut self, file: &Arc<File>, offset: u64, store: &Store) {
        let same = self.ring.file().is_some_and(|now| Arc::ptr_eq(&now, file));
        if same && self.start() == offset {
            self.pop(store);
        }
    }

    /// Gives back what it has of the store.
    pub(super) fn clear(&mut self, store: &Store) {
        store.subtract_memory(self.in_memory());
        self.chunks.clear();
        self.ring.clear(store);
    }
}

fn memory_limit(store: &Store) -> u64 {
    match store.memory_is_short() {
        true => 2 * SCARCE_LIMIT,
        false => UNREAD_LIMIT + RESUME_WINDOW + MEMORY_SLACK,
    }
}
