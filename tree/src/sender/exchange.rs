//! Both streams of the sender, each on a thread of its own: it never blocks in a write while answers wait, and no answer is kept. `sender`
//! sends its messages here and takes the answers.

use std::io::{Read, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use podbridge_proto::v1::TreeSent;

use crate::error::Error;
use crate::wire::{MessageReader, MessageWriter};

/// What a thread reports.
enum Event {
    /// The next answer, encoded.
    Answer(Result<Bytes, Error>),
    /// The message was written.
    Written(Result<(), Error>),
    /// The last answer was taken.
    LastWord,
}

/// The two streams.
pub(super) struct Exchange {
    /// At most one event waits: a thread continues when its event was taken.
    events: Receiver<Event>,
    messages: SyncSender<TreeSent>,
    /// Whether a message is being written.
    is_writing: bool,
    /// Whether further answers can come.
    answers_ended: bool,
}

impl Exchange {
    /// Starts the threads. `is_last` tells the last answer from others.
    pub(super) fn new(
        mut input: MessageReader<impl Read + Send + 'static>,
        mut output: MessageWriter<impl Write + Send + 'static>,
        is_last: fn(&Bytes) -> bool,
    ) -> Self {
        let (answer_events, events) = sync_channel(1);
        let write_events = answer_events.clone();
        let (messages, queued_messages) = sync_channel::<TreeSent>(1);
        // Both threads end when nobody takes their events any more, or when their stream ends.
        thread::spawn(move || {
            loop {
                let answer = input.receive_bytes();
                let is_last = answer.as_ref().map_or(true, is_last);
                if answer_events.send(Event::Answer(answer)).is_err() {
                    return;
                }
                if is_last {
                    // Nobody may take it any more.
                    let _ = answer_events.send(Event::LastWord);
                    return;
                }
            }
        });
        thread::spawn(move || {
            for message in queued_messages {
                if write_events.send(Event::Written(output.send(&message))).is_err() {
                    return;
                }
            }
        });
        Self {
            events,
            messages,
            is_writing: false,
            answers_ended: false,
        }
    }

    /// Begins to write a message if no other one is being written; else returns it.
    pub(super) fn try_send(&mut self, message: TreeSent) -> Result<Option<TreeSent>, Error> {
        if self.is_writing {
            return Ok(Some(message));
        }
        self.messages.send(message).map_err(|_| Error::Truncated)?;
        self.is_writing = true;
        Ok(None)
    }

    /// Waits until an answer has come or a message was written; returns the answer. `Err` if neither can come.
    pub(super) fn wait(&mut self) -> Result<Option<Bytes>, Error> {
        if self.answers_ended && !self.is_writing {
            return Err(Error::Protocol("its last answer came before the end of the copy"));
        }
        let event = self.events.recv().map_err(|_| Error::Truncated)?;
        self.take(event)
    }

    /// Returns an answer if one has come.
    pub(super) fn next_answer(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            match self.events.try_recv() {
                Ok(event) => {
                    if let Some(answer) = self.take(event)? {
                        return Ok(Some(answer));
                    }
                }
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return Ok(None),
            }
        }
    }

    fn take(&mut self, event: Event) -> Result<Option<Bytes>, Error> {
        match event {
            Event::Answer(answer) => answer.map(Some),
            Event::Written(written) => {
                self.is_writing = false;
                written.map(|()| None)
            }
            Event::LastWord => {
                self.answers_ended = true;
                Ok(None)
            }
        }
    }

    /// Sends the last message, within a time limit: the other side may have stopped reading.
    pub(super) fn send_last(&mut self, message: TreeSent, limit: Duration) {
        let mut next = Some(message);
        self.take_events(limit, |exchange, _| match next.take() {
            Some(message) => {
                next = exchange.try_send(message).ok().flatten();
                true
            }
            None => exchange.is_writing,
        });
    }

    /// Returns what `find` finds in the answers that have come since the stream to the other side broke.
    pub(super) fn find_in_answers<T>(&mut self, limit: Duration, find: impl Fn(Bytes) -> Option<T>) -> Option<T> {
        let mut found = None;
        self.take_events(limit, |_, answer| {
            found = found.take().or_else(|| answer.and_then(&find));
            found.is_none()
        });
        found
    }

    /// Takes events until `wants_more` returns false, for a limited time. It is called once before the first event.
    fn take_events(&mut self, limit: Duration, mut wants_more: impl FnMut(&mut Self, Option<Bytes>) -> bool) {
        let end = Instant::now() + limit;
        let mut answer = None;
        while wants_more(self, answer.take()) {
            let left = end.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(event) if !left.is_zero() => match self.take(event) {
                    Ok(taken) => answer = taken,
                    Err(_) => return,
                },
                Ok(_) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// Whatever is taken for the last answer: nobody waits for another one.
    #[test]
    fn nothing_is_waited_for_after_the_last_answer() {
        let (own, other) = UnixStream::pair().unwrap();
        let mut answers = MessageWriter::new(other);
        answers.send(&TreeSent::default()).unwrap();
        let mut exchange = Exchange::new(MessageReader::new(own), MessageWriter::new(io::sink()), |_| true);
        assert!(exchange.wait().unwrap().is_some());
        assert!(exchange.wait().unwrap().is_none());
        assert!(matches!(exchange.wait(), Err(Error::Protocol(_))));
        // A message can still be written.
        assert!(exchange.try_send(TreeSent::default()).unwrap().is_none());
        assert!(exchange.wait().unwrap().is_none());
        assert!(matches!(exchange.wait(), Err(Error::Protocol(_))));
    }
}
