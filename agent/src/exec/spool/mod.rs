//! The spool: an exec's output, read by byte offset. Readers are independent. Unread output waits in memory. When the readers stall,
//! it moves on to a file; when the file is full as well, the command waits (`Overflow::Block`) or the oldest bytes are dropped. Output
//! that a reader has read stays for a while, so that a cut connection can resume. A reader that asks for dropped bytes gets a `Gap`.
//! `stream` decides, `ring` and `store` do the I/O, this file joins them. `output` writes, `attach` reads.

mod ring;
mod store;
mod stream;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

pub(crate) use store::Store;
pub use stream::Overflow;
pub(crate) use stream::Read;
use stream::{Location, Step, Stream};

/// Most bytes of one stream that can wait for a first reader, in memory and in the file.
pub(crate) const SPOOL_BYTES: u64 = stream::UNREAD_LIMIT + ring::RING_CAPACITY;
/// Most bytes that `write` takes at once.
pub(crate) const CHUNK_LIMIT: usize = stream::CHUNK_LIMIT as usize;
/// Time without a read after which the readers of a stream count as stalled.
const STALL_AFTER: Duration = Duration::from_millis(500);

/// One of the two output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    Stdout,
    Stderr,
}

/// Offset to begin at, of each stream.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offsets {
    pub stdout: u64,
    pub stderr: u64,
}

/// Final lengths of both streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lengths {
    pub stdout: u64,
    pub stderr: u64,
    /// True if another process still held the pipes when the agent stopped reading.
    pub held_open: bool,
    /// Error of the spool file, because of which the command waited, or bytes were dropped early.
    pub file_error: Option<String>,
}

#[derive(Debug, Default)]
struct State {
    stdout: Stream,
    stderr: Stream,
    held_open: bool,
    /// True once the exec is released: no reader will come.
    abandoned: bool,
}

impl State {
    fn stream(&mut self, channel: Channel) -> &mut Stream {
        match channel {
            Channel::Stdout => &mut self.stdout,
            Channel::Stderr => &mut self.stderr,
        }
    }
}

/// The output of one exec.
#[derive(Debug)]
pub(crate) struct Spool {
    state: Mutex<State>,
    overflow: Overflow,
    store: Arc<Store>,
    /// Signalled when output was written, or a stream was closed.
    pub(crate) output_changed: Notify,
    /// Signalled when a reader has read output, or the spool was abandoned.
    space_freed: Notify,
}

impl Spool {
    pub(crate) fn new(overflow: Overflow, store: Arc<Store>) -> Self {
        Self {
            state: Mutex::default(),
            overflow,
            store,
            output_changed: Notify::new(),
            space_freed: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the spool is locked")
    }

    /// Waits until the spool can take one more chunk from the command; false if no reader will ever come.
    pub(crate) async fn wait_for_space(&self, channel: Channel) -> bool {
        loop {
            let space_freed = self.space_freed.notified();
            tokio::pin!(space_freed);
            space_freed.as_mut().enable();
            self.move_to_file(channel).await;
            let may_grow_with_time = {
                let mut state = self.lock();
                if state.abandoned {
                    return false;
                }
                let stream = state.stream(channel);
                if stream.may_grow(self.overflow, &self.store) {
                    return true;
                }
                stream.may_grow_with_time(&self.store)
            };
            if !may_grow_with_time {
                space_freed.await;
            } else if timeout(STALL_AFTER, space_freed).await.is_err() {
                self.lock().stream(channel).stalled = true;
            }
        }
    }

    /// Moves the oldest chunks to the file while memory holds more than its limit. Only the stream's writer calls it.
    async fn move_to_file(&self, channel: Channel) {
        loop {
            let step = self.lock().stream(channel).next_step(self.overflow, &self.store);
            let Step::Move { file, offset, chunk } = step else {
                return;
            };
            let target = file.clone();
            // It is never closed.
            let _writer = self.store.writers.acquire().await;
            let written = spawn_blocking(move || ring::write(&target, offset, &chunk)).await;
            let mut state = self.lock();
            let stream = state.stream(channel);
            match written.expect("writing does not panic") {
                Ok(()) => stream.finish_move(&file, offset, &self.store),
                Err(error) => {
                    tracing::warn!(%error, "spool file not written");
                    stream.file_error = Some(error.to_string());
                }
            }
        }
    }

    /// Appends a chunk of at most `CHUNK_LIMIT` bytes.
    pub(crate) fn write(&self, channel: Channel, data: Bytes) {
        self.lock().stream(channel).push(data, &self.store);
        self.output_changed.notify_waiters();
    }

    /// Ends one stream; `held_open` if another process could still write to it.
    pub(crate) fn close(&self, channel: Channel, held_open: bool) {
        {
            let mut state = self.lock();
            state.stream(channel).closed = true;
            state.held_open |= held_open;
        }
        self.output_changed.notify_waiters();
    }

    /// Reads at most `max` bytes from `offset` on.
    pub(crate) async fn read(&self, channel: Channel, offset: u64, max: usize) -> Read {
        let found = self.lock().stream(channel).locate(offset, max);
        let (file, length) = match found {
            Location::Ready(read) => return read,
            Location::InFile(file, length) => (file, length),
        };
        let data = spawn_blocking(move || ring::read(&file, offset, length)).await;
        let data = data.expect("reading does not panic");
        // Meanwhile the ring may have overwritten these bytes.
        let floor = self.lock().stream(channel).floor();
        match data {
            _ if offset < floor => Read::Gap(floor - offset),
            Ok(data) => Read::Data(data.into()),
            Err(error) => {
                tracing::warn!(%error, "spool file not read");
                Read::Gap(length as u64)
            }
        }
    }

    /// Records the flow-control window of a reader of both streams.
    pub(crate) fn widen(&self, window: u64) {
        let mut state = self.lock();
        state.stdout.widen(window);
        state.stderr.widen(window);
    }

    /// Records that a reader has everything of this stream below `offset`.
    pub(crate) fn take(&self, channel: Channel, offset: u64) {
        self.lock().stream(channel).take(offset, &self.store);
        self.space_freed.notify_waiters();
    }

    /// Records that no reader will come, and ends `wait_for_space`.
    pub(crate) fn abandon(&self) {
        self.lock().abandoned = true;
        self.space_freed.notify_waiters();
    }

    /// Returns the lengths; `None` until both streams are closed.
    pub(crate) fn lengths(&self) -> Option<Lengths> {
        let state = self.lock();
        let (stdout, stderr) = (&state.stdout, &state.stderr);
        (stdout.closed && stderr.closed).then(|| Lengths {
            stdout: stdout.end(),
            stderr: stderr.end(),
            held_open: state.held_open,
            file_error: stdout.file_error.clone().or_else(|| stderr.file_error.clone()),
        })
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        let store = self.store.clone();
        let mut state = self.lock();
        state.stdout.clear(&store);
        state.stderr.clear(&store);
    }
}

#[cfg(test)]
mod tests;
