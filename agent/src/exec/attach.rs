//! Reader of one exec: turns its spool and its state into events, in order, from the given offsets. It never changes the exec,
//! but for the number of readers and the offsets read. `registry` makes it, `rpc::exec` reads from it.

use std::sync::Arc;

use bytes::Bytes;

use super::spool::{Channel, Lengths, Offsets, Read};
use super::{Exec, ExitRecord};

/// Event that a reader gets. `Started` comes first and `Closed` last; between them come output and gaps, and one `Exited`.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    Started {
        /// 0 if the command never ran; the exit record then says why.
        pid: u32,
        /// `warm`, or the reason why a module of Ansible has a new interpreter; empty for other commands.
        python: String,
    },
    Output {
        channel: Channel,
        offset: u64,
        data: Bytes,
    },
    /// Output that is discarded already.
    Gap {
        channel: Channel,
        offset: u64,
        length: u64,
    },
    Exited(ExitRecord),
    Closed(Lengths),
}

/// Reader of one exec. While it exists, the lease of the exec does not run.
#[derive(Debug)]
pub struct Reader {
    exec: Arc<Exec>,
    offsets: Offsets,
    /// The stream to try first. It alternates, so that neither stream starves.
    stderr_first: bool,
    /// `Started`, `Exited` and `Closed` were returned.
    started: bool,
    exited: bool,
    closed: bool,
    /// Most bytes of one output event.
    max: usize,
}

impl Reader {
    pub(crate) fn new(exec: Arc<Exec>, offsets: Offsets, window: u64, max: usize) -> Self {
        exec.add_reader();
        exec.spool.widen(window);
        exec.spool.take(Channel::Stdout, offsets.stdout);
        exec.spool.take(Channel::Stderr, offsets.stderr);
        Self {
            exec,
            offsets,
            stderr_first: false,
            started: false,
            exited: false,
            closed: false,
            max,
        }
    }

    /// Waits for the next event; `None` after `Closed`. Cancel-safe.
    pub async fn next(&mut self) -> Option<Event> {
        if !self.started {
            let pid = self.exec.pid().await;
            self.started = true;
            let python = self.exec.python.get().cloned().unwrap_or_default();
            return Some(Event::Started { pid, python });
        }
        let exec = self.exec.clone();
        let mut exit = exec.exit.subscribe();
        while !self.closed {
            let output_changed = exec.spool.output_changed.notified();
            tokio::pin!(output_changed);
            output_changed.as_mut().enable();
            let record = exit.borrow().clone();
            if let Some(event) = self.next_ready(record).await {
                return Some(event);
            }
            tokio::select! {
                () = output_changed => {}
                changed = exit.changed(), if !self.exited => if changed.is_err() { return None },
            }
        }
        None
    }

    /// Returns an event that needs no waiting; `None` if there is none yet.
    async fn next_ready(&mut self, exit: Option<ExitRecord>) -> Option<Event> {
        self.stderr_first = !self.stderr_first;
        let order = if self.stderr_first {
            [Channel::Stderr, Channel::Stdout]
        } else {
            [Channel::Stdout, Channel::Stderr]
        };
        for channel in order {
            if let Some(event) = self.output(channel).await {
                return Some(event);
            }
        }
        let exit = exit?;
        if !self.exited {
            self.exited = true;
            return Some(Event::Exited(exit));
        }
        let lengths = self.exec.spool.lengths()?;
        // The spool may have been closed since the loop above: read what came before the close.
        for channel in order {
            if let Some(event) = self.output(channel).await {
                return Some(event);
            }
        }
        self.closed = true;
        Some(Event::Closed(lengths))
    }

    /// Returns the next output or gap of one stream; `None` if there is none yet.
    async fn output(&mut self, channel: Channel) -> Option<Event> {
        let position = match channel {
            Channel::Stdout => &mut self.offsets.stdout,
            Channel::Stderr => &mut self.offsets.stderr,
        };
        let offset = *position;
        let event = match self.exec.spool.read(channel, offset, self.max).await {
            Read::Data(data) => {
                *position += data.len() as u64;
                Event::Output { channel, offset, data }
            }
            Read::Gap(length) => {
                *position += length;
                Event::Gap {
                    channel,
                    offset,
                    length,
                }
            }
            Read::Wait | Read::End => return None,
        };
        self.exec.spool.take(channel, *position);
        Some(event)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.exec.remove_reader();
    }
}
