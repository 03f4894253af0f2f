//! A command's standard input by offset: a repeated byte is dropped, a missing byte is refused, and a new writer evicts the old
//! one. It knows descriptors and offsets, and no exec: `state` owns one for each exec, `supervisor` opens and closes it, and
//! `stdin_writer` writes.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::unix::AsyncFd;
use tokio::sync::{Mutex, watch};

use super::{Error, ExecId};

/// Control-D, which a terminal takes for the end of its input.
const END_OF_TRANSMISSION: u8 = 0x04;

/// State of stdin after a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that the command's pipe or terminal has taken.
    pub taken: u64,
    /// True if no more can be written: the command closed its stdin or ended, or a writer wrote the end.
    pub closed: bool,
}

/// The descriptor that stdin is written to.
#[derive(Debug)]
pub(super) enum Sink {
    Pipe(AsyncFd<OwnedFd>),
    /// The master of a terminal, shared with the output.
    Terminal(Arc<AsyncFd<OwnedFd>>),
}

#[derive(Debug)]
struct State {
    /// `None` before the command has its stdin, and after the end.
    sink: Option<Sink>,
    taken: u64,
    /// True if the last byte written was no newline.
    in_line: bool,
}

/// Standard input of one exec.
#[derive(Debug)]
pub(super) struct Stdin {
    state: Mutex<State>,
    /// Number of the current writer. A higher number evicts the writers before it.
    writer: watch::Sender<u64>,
}

impl Default for Stdin {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                sink: None,
                taken: 0,
                in_line: false,
            }),
            writer: watch::Sender::new(0),
        }
    }
}

impl Stdin {
    pub(super) async fn open(&self, sink: Sink) {
        self.state.lock().await.sink = Some(sink);
    }

    /// Closes stdin after the command's end.
    pub(super) async fn close(&self) {
        // A writer that waits for a full pipe releases its lock only when it is evicted.
        self.writer.send_modify(|writer| *writer += 1);
        self.state.lock().await.sink = None;
    }

    /// Makes the caller the current writer. Returns its number, and a receiver that tells when another number is current.
    pub(super) fn take_over(&self) -> (u64, watch::Receiver<u64>) {
        let mut number = 0;
        self.writer.send_modify(|writer| {
            *writer += 1;
            number = *writer;
        });
        (number, self.writer.subscribe())
    }

    /// Returns what an evicted writer gets: the final progress if the command's end evicted it, else an error.
    pub(super) async fn eviction(&self, id: ExecId) -> Result<Progress, Error> {
        let state = self.state.lock().await;
        match state.sink {
            None => Ok(Progress {
                taken: state.taken,
                closed: true,
            }),
            Some(_) => Err(Error::Evicted(id)),
        }
    }

    /// Writes the part of `data` that is new, then the end if `eof`. Without an offset, `data` continues at the current one.
    /// Waits while the command does not read. `Err` if bytes before `offset` are missing.
    pub(super) async fn write(
        &self,
        id: ExecId,
        offset: Option<u64>,
        data: &[u8],
        eof: bool,
    ) -> Result<Progress, Error> {
        let mut state = self.state.lock().await;
        let offset = offset.unwrap_or(state.taken);
        if offset > state.taken {
            return Err(Error::StdinGap {
                id,
                expected: state.taken,
                got: offset,
            });
        }
        let known = (state.taken - offset).min(data.len() as u64) as usize;
        let mut rest = &data[known..];
        while let (false, Some(sink)) = (rest.is_empty(), &state.sink) {
            match write_some(sink, rest).await {
                Ok(count) => {
                    state.in_line = rest[..count].last().is_some_and(|byte| *byte != b'\n');
                    rest = &rest[count..];
                    state.taken += count as u64;
                }
                // The command has closed its stdin, as it may.
                Err(_) => state.sink = None,
            }
        }
        if eof
            && let Some(sink) = state.sink.take()
            && let Sink::Terminal(_) = &sink
        {
            // Within a line, the first end-of-transmission only submits the line; the second is the end.
            let ends: &[u8] = if state.in_line {
                &[END_OF_TRANSMISSION; 2]
            } else {
                &[END_OF_TRANSMISSION]
            };
            let _ = write_some(&sink, ends).await;
        }
        Ok(Progress {
            taken: state.taken,
            closed: state.sink.is_none(),
        })
    }
}

async fn write_some(sink: &Sink, data: &[u8]) -> io::Result<usize> {
    let fd: &AsyncFd<OwnedFd> = match sink {
        Sink::Pipe(fd) => fd,
        Sink::Terminal(fd) => fd,
    };
    loop {
        let mut ready = fd.writable().await?;
        if let Ok(result) = ready.try_io(|fd| Ok(rustix::io::write(fd.get_ref(), data)?)) {
            return result;
        }
    }
}
