//! One stream of one exec: what is where, by offset. `[floor, start)` is in the ring, `[start, end)` in memory; below the
//! floor nothing can be read any more. It decides, and does no I/O.

use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::ring::{CAPACITY, Refused, Ring};
use super::store::Store;

/// Bytes that may wait in memory for a first reader.
pub(super) const AHEAD: u64 = 2 << 20;
/// Bytes kept after a reader has taken them: more than the windows and buffers of one connection hold.
pub(super) const BEHIND: u64 = 4 << 20;
/// Either of them, while the memory of all streams is short.
const SCARCE: u64 = 64 << 10;
/// Beyond both: a piece on its way in, and one that is taken only in part.
const SLACK: u64 = 256 << 10;
/// Largest piece.
pub(super) const PIECE: u64 = 64 << 10;

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
pub(super) enum Found {
    Here(Read),
    /// So many of them, in this file.
    Stored(Arc<File>, usize),
}

/// The next step to a stream that holds no more in memory than it may.
#[derive(Debug)]
pub(super) enum Step {
    Done,
    /// This piece goes to the file; `moved` when it is there.
    Move {
        file: Arc<File>,
        offset: u64,
        piece: Bytes,
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
    crowded: bool,
    /// Why the file takes nothing.
    pub(super) refused: Option<String>,
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
        store.memory_taken(data.len() as u64);
        self.chunks.push_back((start, data));
    }

    pub(super) fn find(&self, offset: u64, max: usize) -> Found {
        if offset >= self.end {
            return Found::Here(if self.closed { Read::End } else { Read::Wait });
        }
        if offset < self.floor {
            return Found::Here(Read::Gap(self.floor - offset));
        }
        let start = self.start();
        if offset < start {
            let length = usize::try_from(start - offset).map_or(max, |length| length.min(max));
            let file = self.ring.file().expect("what is below memory is in the file");
            return Found::Stored(file, length);
        }
        Found::Here(Read::Data(self.gather(offset, max)))
    }

    /// From memory.
    fn gather(&self, offset: u64, max: usize) -> Bytes {
        let index = self.chunks.partition_point(|(start, _)| *start <= offset) - 1;
        let (start, chunk) = &self.chunks[index];
        let head = chunk.slice((offset - start) as usize..);
        // A long piece goes as it is, without a copy; short ones are gathered.
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
            true => SCARCE,
            false => BEHIND,
        };
        self.forget(self.taken.saturating_sub(behind), store);
    }

    /// Nobody needs what is below `floor`; of pieces in memory only whole ones go.
    fn forget(&mut self, floor: u64, store: &Store) {
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
            store.memory_given_back(chunk.len() as u64);
        }
    }

    /// May another piece come in? To be asked when `step` says `Done`.
    pub(super) fn may_grow(&self, overflow: Overflow, store: &Store) -> bool {
        let ahead = if store.memory_is_short() { SCARCE } else { AHEAD };
        overflow == Overflow::DropOldest
            || self.end - self.taken < ahead
            // A reader that reads sets the pace; the file is for the time when there is none.
            || (self.stalled && self.file_takes(PIECE, store) && self.in_memory() <= allowance(store))
    }

    /// Time alone may change the answer of `may_grow`.
    pub(super) fn may_change(&self, store: &Store) -> bool {
        !self.stalled && store.has_files() || self.crowded
    }

    fn file_takes(&self, bytes: u64, store: &Store) -> bool {
        store.has_files() && self.refused.is_none() && self.start() + bytes - self.floor <= CAPACITY
    }

    pub(super) fn step(&mut self, overflow: Overflow, store: &Store) -> Step {
        while self.in_memory() > allowance(store) {
            let Some((offset, piece)) = self.chunks.front().cloned() else {
                return Step::Done;
            };
            let length = piece.len() as u64;
            let drops = overflow == Overflow::DropOldest;
            if drops && store.has_files() && self.refused.is_none() {
                self.floor = self.floor.max((offset + length).saturating_sub(CAPACITY));
            }
            let file = match self.file_takes(length, store) {
                true => self.ring.prepare(store, length),
                false => Err(Refused::Limit),
            };
            self.crowded = false;
            match file {
                Ok(file) => return Step::Move { file, offset, piece },
                Err(Refused::Broken(reason)) => self.refused = Some(reason),
                Err(Refused::Limit) if !drops => {
                    self.crowded = store.has_files() && self.refused.is_none();
                    return Step::Done;
                }
                Err(Refused::Limit) => {
                    self.pop(store);
                    self.floor = self.start();
                    self.ring.clear(store);
                }
            }
        }
        Step::Done
    }

    /// The piece at `offset` is in the file, unless that is another one by now: then it is still in memory, or taken.
    pub(super) fn moved(&mut self, file: &Arc<File>, offset: u64, store: &Store) {
        let same = self.ring.file().is_some_and(|now| Arc::ptr_eq(&now, file));
        if same && self.start() == offset {
            self.pop(store);
        }
    }

    /// Gives back what it has of the store.
    pub(super) fn clear(&mut self, store: &Store) {
        store.memory_given_back(self.in_memory());
        self.chunks.clear();
        self.ring.clear(store);
    }
}

fn allowance(store: &Store) -> u64 {
    match store.memory_is_short() {
        true => 2 * SCARCE,
        false => AHEAD + BEHIND + SLACK,
    }
}
