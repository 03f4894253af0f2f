//! An exec's output, read by byte offset. Readers are independent. What nobody has read waits in memory; when readers
//! stand still it moves on to a file, and when that is full as well the command waits (`Overflow::Block`) or the oldest
//! bytes go. What some reader has taken stays for a while, so that a cut connection can resume. A reader that wants
//! bytes which are gone gets a `Gap`.

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

/// Bytes per stream that may wait for a first reader, with a file.
pub(crate) const SPOOL_BYTES: u64 = stream::UNREAD_LIMIT + ring::RING_CAPACITY;
/// Largest piece that `write` takes.
pub(crate) const CHUNK_LIMIT: usize = stream::CHUNK_LIMIT as usize;
/// Readers that have taken nothing for so long stand still.
const STALL_AFTER: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Channel {
    Stdout,
    Stderr,
}

/// First byte wanted of each stream.
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
    /// Another process still held the pipes when the agent stopped reading.
    pub held_open: bool,
    /// Why no file took output, so that the command waited or bytes went early.
    pub file_error: Option<String>,
}

#[derive(Debug, Default)]
struct State {
    stdout: Stream,
    stderr: Stream,
    held_open: bool,
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

#[derive(Debug)]
pub(crate) struct Spool {
    state: Mutex<State>,
    overflow: Overflow,
    store: Arc<Store>,
    /// Something was written or closed.
    pub(crate) output_changed: Notify,
    /// Something was taken, or nobody wants anything any more.
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

    /// Waits until a piece may be taken from the command; false if nobody will ever want it.
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

    /// Moves the oldest pieces to the file while more is in memory than may be. Only the stream's writer calls it.
    async fn move_to_file(&self, channel: Channel) {
        loop {
            let step = self.lock().stream(channel).next_step(self.overflow, &self.store);
            let Step::Move { file, offset, chunk } = step else {
                return;
            };
            let target = file.clone();
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

    pub(crate) fn write(&self, channel: Channel, data: Bytes) {
        self.lock().stream(channel).push(data, &self.store);
        self.output_changed.notify_waiters();
    }

    pub(crate) fn close(&self, channel: Channel, held_open: bool) {
        {
            let mut state = self.lock();
            state.stream(channel).closed = true;
            state.held_open |= held_open;
        }
        self.output_changed.notify_waiters();
    }

    /// At most `max` bytes from `offset` on.
    pub(crate) async fn read(&self, channel: Channel, offset: u64, max: usize) -> Read {
        let found = self.lock().stream(channel).locate(offset, max);
        let (file, length) = match found {
            Location::Ready(read) => return read,
            Location::InFile(file, length) => (file, length),
        };
        let data = spawn_blocking(move || ring::read(&file, offset, length)).await;
        let data = data.expect("reading does not panic");
        // The ring may have come round meanwhile.
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

    /// A reader has everything of this stream below `offset`.
    pub(crate) fn take(&self, channel: Channel, offset: u64) {
        self.lock().stream(channel).take(offset, &self.store);
        self.space_freed.notify_waiters();
    }

    /// Nobody will read any more: whoever waits for room need not.
    pub(crate) fn abandon(&self) {
        self.lock().abandoned = true;
        self.space_freed.notify_waiters();
    }

    /// The lengths, once both streams are closed.
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
