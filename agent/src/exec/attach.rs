//! One reader of one exec: turns its spool and state into events, in order, from the given offsets. Dropping it tells
//! the exec that a reader has gone.

use std::sync::Arc;

use bytes::Bytes;

use super::spool::{Channel, Lengths, Offsets, Read};
use super::{Exec, ExitRecord};

/// What a reader is told, in this order: `Started`, output and gaps, `Exited` among them, `Closed` last.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// 0 if it never ran; the exit record then says why.
    Started {
        pid: u32,
    },
    Output {
        channel: Channel,
        offset: u64,
        data: Bytes,
    },
    Gap {
        channel: Channel,
        offset: u64,
        length: u64,
    },
    Exited(ExitRecord),
    Closed(Lengths),
}

#[derive(Debug)]
pub struct Reader {
    exec: Arc<Exec>,
    offsets: Offsets,
    /// Output of both streams alternates, so that neither starves.
    stderr_first: bool,
    started: bool,
    exited: bool,
    closed: bool,
    max: usize,
}

impl Reader {
    pub(crate) fn new(exec: Arc<Exec>, offsets: Offsets, max: usize) -> Self {
        exec.add_reader();
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

    /// The next event; `None` after `Closed`. Cancel-safe.
    pub async fn next(&mut self) -> Option<Event> {
        if !self.started {
            let pid = self.exec.pid().await;
            self.started = true;
            return Some(Event::Started { pid });
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

    async fn next_ready(&mut self, exit: Option<ExitRecord>) -> Option<Event> {
        self.stderr_first = !self.stderr_first;
        let order = match self.stderr_first {
            true => [Channel::Stderr, Channel::Stdout],
            false => [Channel::Stdout, Channel::Stderr],
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
        // Closed between the two looks above: there may be output yet.
        for channel in order {
            if let Some(event) = self.output(channel).await {
                return Some(event);
            }
        }
        self.closed = true;
        Some(Event::Closed(lengths))
    }

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
