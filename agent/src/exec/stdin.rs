//! Standard input by offset: a repeated byte is dropped, a missing one refused, and a new writer evicts the old one.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::unix::AsyncFd;
use tokio::sync::{Mutex, watch};

use super::{Error, Exec, ExecId};

/// What a terminal takes for the end of its input.
const END_OF_TRANSMISSION: u8 = 0x04;

/// How far stdin has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes the command's pipe has taken.
    pub taken: u64,
    /// The command wants no more: it closed its stdin or ended, or stdin's end was written.
    pub closed: bool,
}

/// The descriptor that stdin is written to.
#[derive(Debug)]
pub(crate) enum Sink {
    Pipe(AsyncFd<OwnedFd>),
    /// The master of a terminal, shared with the output.
    Terminal(Arc<AsyncFd<OwnedFd>>),
}

#[derive(Debug)]
struct State {
    sink: Option<Sink>,
    taken: u64,
    /// The last byte ended no line.
    in_line: bool,
}

#[derive(Debug)]
pub(crate) struct Stdin {
    state: Mutex<State>,
    /// Number of the writer that may write.
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
    pub(crate) async fn open(&self, sink: Sink) {
        self.state.lock().await.sink = Some(sink);
    }

    /// The command has ended.
    pub(crate) async fn close(&self) {
        // A writer that waits for a full pipe gives up its lock only when it is evicted.
        self.writer.send_modify(|writer| *writer += 1);
        self.state.lock().await.sink = None;
    }
}

/// One writer; the newest wins.
#[derive(Debug)]
pub struct StdinWriter {
    id: ExecId,
    exec: Arc<Exec>,
    number: u64,
    current: watch::Receiver<u64>,
}

impl StdinWriter {
    pub(crate) fn new(id: ExecId, exec: Arc<Exec>) -> Self {
        let mut number = 0;
        exec.stdin.writer.send_modify(|writer| {
            *writer += 1;
            number = *writer;
        });
        let current = exec.stdin.writer.subscribe();
        Self {
            id,
            exec,
            number,
            current,
        }
    }

    /// Where to begin.
    pub async fn progress(&mut self) -> Result<Progress, Error> {
        self.write(None, &[], false).await
    }

    /// Writes what is new of `data`, then the end if `eof`. Waits while the command does not read.
    pub async fn write(&mut self, offset: Option<u64>, data: &[u8], eof: bool) -> Result<Progress, Error> {
        let exec = self.exec.clone();
        let number = self.number;
        // Nothing can be written before the command has its pipe.
        exec.pid().await;
        tokio::select! {
            biased;
            () = evicted(&mut self.current, number) => {
                // The command's end evicts too; its state then tells.
                let state = exec.stdin.state.lock().await;
                match state.sink {
                    None => Ok(Progress { taken: state.taken, closed: true }),
                    Some(_) => Err(Error::Evicted(self.id)),
                }
            }
            progress = write(self.id, &exec.stdin.state, offset, data, eof) => progress,
        }
    }
}

/// Returns when a newer writer has come, without holding the watch's lock as its value would.
async fn evicted(current: &mut watch::Receiver<u64>, number: u64) {
    // An error means that the exec is gone, and its writers with it.
    let _ = current.wait_for(|current| *current != number).await;
}

async fn write(
    id: ExecId,
    state: &Mutex<State>,
    offset: Option<u64>,
    data: &[u8],
    eof: bool,
) -> Result<Progress, Error> {
    let mut state = state.lock().await;
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
            // The command has closed its end, which is its right.
            Err(_) => state.sink = None,
        }
    }
    if eof
        && let Some(sink) = state.sink.take()
        && let Sink::Terminal(_) = &sink
    {
        // Within a line, the first one only hands the line over.
        let ends: &[u8] = match state.in_line {
            true => &[END_OF_TRANSMISSION; 2],
            false => &[END_OF_TRANSMISSION],
        };
        let _ = write_some(&sink, ends).await;
    }
    Ok(Progress {
        taken: state.taken,
        closed: state.sink.is_none(),
    })
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
