//! An exec's output, read by byte offset. Readers are independent; the command waits only when nobody has read the last
//! `AHEAD` bytes. What some reader has taken stays for `BEHIND` bytes, so that a cut connection can resume; older bytes
//! are gone, and a reader that wants them gets a `Gap`. In memory; no I/O here.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

/// Bytes per stream that may wait for a first reader.
pub(crate) const AHEAD: u64 = 4 << 20;
/// Bytes per stream kept after a reader has taken them: more than the windows and buffers of one connection hold.
const BEHIND: u64 = 4 << 20;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lengths {
    pub stdout: u64,
    pub stderr: u64,
    /// Another process still held the pipes when the agent stopped reading.
    pub held_open: bool,
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

#[derive(Debug, Default)]
struct Stream {
    chunks: VecDeque<(u64, Bytes)>,
    /// Offset of the next byte to come.
    end: u64,
    /// Furthest offset that any reader has reached.
    taken: u64,
    closed: bool,
}

impl Stream {
    fn read(&self, offset: u64, max: usize) -> Read {
        if offset >= self.end {
            return if self.closed { Read::End } else { Read::Wait };
        }
        let first = self.chunks.front().map_or(self.end, |(start, _)| *start);
        if offset < first {
            return Read::Gap(first - offset);
        }
        let index = self.chunks.partition_point(|(start, _)| *start <= offset) - 1;
        let (start, chunk) = &self.chunks[index];
        let head = chunk.slice((offset - start) as usize..);
        // A long piece goes as it is, without a copy; short ones are gathered.
        if head.len() >= max / 4 || index + 1 == self.chunks.len() {
            return Read::Data(head.slice(..head.len().min(max)));
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
        Read::Data(gathered.freeze())
    }

    fn take(&mut self, offset: u64) {
        self.taken = self.taken.max(offset);
        let floor = self.taken.saturating_sub(BEHIND);
        while self
            .chunks
            .front()
            .is_some_and(|(start, chunk)| start + chunk.len() as u64 <= floor)
        {
            self.chunks.pop_front();
        }
    }
}

#[derive(Debug, Default)]
struct State {
    stdout: Stream,
    stderr: Stream,
    held_open: bool,
}

impl State {
    fn stream(&mut self, channel: Channel) -> &mut Stream {
        match channel {
            Channel::Stdout => &mut self.stdout,
            Channel::Stderr => &mut self.stderr,
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Spool {
    state: Mutex<State>,
    /// Something was written or closed.
    pub(crate) grown: Notify,
    /// Something was taken.
    drained: Notify,
}

impl Spool {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while the spool is locked")
    }

    /// Waits until more output may be taken from the command.
    pub(crate) async fn room(&self, channel: Channel) {
        loop {
            let drained = self.drained.notified();
            tokio::pin!(drained);
            drained.as_mut().enable();
            {
                let mut state = self.lock();
                let stream = state.stream(channel);
                if stream.end - stream.taken < AHEAD {
                    return;
                }
            }
            drained.await;
        }
    }

    pub(crate) fn write(&self, channel: Channel, data: Bytes) {
        {
            let mut state = self.lock();
            let stream = state.stream(channel);
            let start = stream.end;
            stream.end += data.len() as u64;
            stream.chunks.push_back((start, data));
        }
        self.grown.notify_waiters();
    }

    pub(crate) fn close(&self, channel: Channel, held_open: bool) {
        {
            let mut state = self.lock();
            state.stream(channel).closed = true;
            state.held_open |= held_open;
        }
        self.grown.notify_waiters();
    }

    pub(crate) fn read(&self, channel: Channel, offset: u64, max: usize) -> Read {
        self.lock().stream(channel).read(offset, max)
    }

    /// A reader has everything of this stream below `offset`.
    pub(crate) fn take(&self, channel: Channel, offset: u64) {
        self.lock().stream(channel).take(offset);
        self.drained.notify_waiters();
    }

    /// The lengths, once both streams are closed.
    pub(crate) fn lengths(&self) -> Option<Lengths> {
        let state = self.lock();
        let (stdout, stderr) = (&state.stdout, &state.stderr);
        (stdout.closed && stderr.closed).then_some(Lengths {
            stdout: stdout.end,
            stderr: stderr.end,
            held_open: state.held_open,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUT: Channel = Channel::Stdout;

    fn data(read: Read) -> Bytes {
        match read {
            Read::Data(data) => data,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn readers_are_independent_and_see_every_byte() {
        let spool = Spool::default();
        spool.write(OUT, "hello ".into());
        spool.write(OUT, "world".into());
        assert_eq!(data(spool.read(OUT, 0, 1024)), "hello world");
        assert_eq!(data(spool.read(OUT, 3, 4)), "lo w"[..3]);
        assert_eq!(data(spool.read(OUT, 8, 1024)), "rld");
        assert_eq!(spool.read(OUT, 11, 8), Read::Wait);
        assert_eq!(spool.read(Channel::Stderr, 0, 8), Read::Wait);
        spool.close(OUT, false);
        assert_eq!(spool.read(OUT, 11, 8), Read::End);
        assert_eq!(spool.lengths(), None);
        spool.close(Channel::Stderr, true);
        assert_eq!(
            spool.lengths(),
            Some(Lengths {
                stdout: 11,
                stderr: 0,
                held_open: true
            })
        );
    }

    #[test]
    fn what_a_reader_took_long_ago_is_an_explicit_gap() {
        let spool = Spool::default();
        let piece = Bytes::from(vec![7u8; 1 << 20]);
        for _ in 0..6 {
            spool.write(OUT, piece.clone());
        }
        spool.take(OUT, 6 << 20);
        assert_eq!(spool.read(OUT, 0, 8), Read::Gap(2 << 20));
        assert_eq!(data(spool.read(OUT, 2 << 20, 8)).len(), 8);
    }

    #[tokio::test]
    async fn the_command_waits_when_nobody_reads() {
        let spool = std::sync::Arc::new(Spool::default());
        spool.write(OUT, Bytes::from(vec![0u8; AHEAD as usize]));
        let waiting = tokio::spawn({
            let spool = spool.clone();
            async move { spool.room(OUT).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        spool.room(Channel::Stderr).await;
        spool.take(OUT, 1);
        waiting.await.unwrap();
    }
}
