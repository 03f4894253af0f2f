//! One exec from its client's side, whatever links it takes: the client's input on its way in, the output on its way out
//! and how far both are.

use std::io;

use bytes::Bytes;
use podbridge_proto::v1::exec_event::Event;
use podbridge_proto::v1::{Closed, ExecEvent, ExitRecord, Output, Stream};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use crate::error::Failure;
use crate::protocol::frame::{Frame, MAX_LENGTH};
use crate::protocol::request::Size;
use crate::protocol::result::{Ended, Outcome};
use crate::protocol::target::hex;
use crate::session::client::{Client, Input, InputCredit, bad_request};
use crate::session::exec::control::Control;
use crate::session::exec::outcome::ended;
use crate::session::exec::stdin;
use crate::session::files::passed_file::LocalFile;
use crate::session::unacknowledged::Piece;

/// Where the client's inputs go; filled also before the command runs.
pub(crate) struct Wires {
    pub(crate) pieces: mpsc::UnboundedSender<Piece>,
    pub(crate) controls: mpsc::UnboundedSender<(Control, InputCredit)>,
}

impl Wires {
    /// An outcome if the client's input ends the operation. Nobody listens once the command has ended: no matter.
    fn take(&mut self, input: Option<Input>) -> Option<Outcome> {
        match input {
            Some(Input::Stdin(data, charge)) => drop(self.pieces.send(Piece::Data(data, charge))),
            Some(Input::StdinEof(_)) => drop(self.pieces.send(Piece::Eof)),
            Some(Input::Signal(number, charge)) => drop(self.controls.send((Control::Signal(number), charge))),
            Some(Input::Resize { rows, cols, charge }) => {
                drop(self.controls.send((Control::Resize(Size { rows, cols }), charge)));
            }
            Some(Input::Gone) | None => return Some(Outcome::Cancelled(Ended::default())),
            Some(Input::Bad(why)) => return Some(bad_request(why)),
        }
        None
    }
}

/// Where one output stream goes, and how far it is.
pub(crate) struct Sink {
    file: Option<LocalFile>,
    pub(crate) offset: u64,
}

impl Sink {
    pub(crate) fn new(file: Option<LocalFile>, offset: u64) -> Self {
        Self { file, offset }
    }
}

/// How one link ended.
pub(crate) enum End {
    Closed(Outcome),
    /// Ended by the client, or by what cannot go on.
    Cancel(Outcome),
    Broken(Status),
}

pub(crate) struct Running {
    pub(crate) id: [u8; 16],
    pub(crate) client: Client,
    pub(crate) wires: Wires,
    pub(crate) acks: mpsc::UnboundedReceiver<stdin::Ack>,
    /// The file that is its stdin cannot be read.
    pub(crate) broken_stdin: mpsc::Receiver<Outcome>,
    pub(crate) stdout: Sink,
    pub(crate) stderr: Sink,
    pub(crate) started: bool,
    /// A frame that the client has no room for yet: while it waits, no event is read, and HTTP/2 holds the agent back.
    pub(crate) outbox: Option<Frame>,
    pub(crate) exit: Option<ExitRecord>,
}

impl Running {
    /// Tells the client, before anything is sent, which agent may have the exec from now on. An error: it has gone.
    pub(crate) async fn tell_agent(&self, instance: &str) -> Result<(), mpsc::error::SendError<Frame>> {
        let json = serde_json::json!({ "instance": instance }).to_string();
        self.client.replies.send(Frame::Agent(json.into())).await
    }

    /// Waits for something else while the client is heard; its outcome if it ends the exec.
    pub(crate) async fn meanwhile<T>(&mut self, something: impl Future<Output = T>) -> Result<T, Outcome> {
        tokio::pin!(something);
        loop {
            tokio::select! {
                done = &mut something => return Ok(done),
                Some(outcome) = self.broken_stdin.recv() => return Err(outcome),
                input = self.client.inputs.recv() => if let Some(outcome) = self.wires.take(input) {
                    return Err(outcome);
                },
            }
        }
    }

    /// Carries events to the client as long as the link lives. True in `moved` if any came.
    pub(crate) async fn follow(&mut self, mut events: Streaming<ExecEvent>, moved: &mut bool) -> End {
        let replies = self.client.replies.clone();
        loop {
            let free = self.outbox.is_none();
            tokio::select! {
                room = replies.reserve(), if !free => match (room, self.outbox.take()) {
                    (Ok(room), Some(frame)) => room.send(frame),
                    _ => return End::Cancel(Outcome::Cancelled(Ended::default())),
                },
                Some(stdin::Ack { offset, closed }) = self.acks.recv(), if free => {
                    self.outbox = Some(Frame::StdinAck { offset, closed });
                }
                Some(outcome) = self.broken_stdin.recv() => return End::Cancel(outcome),
                input = self.client.inputs.recv() => if let Some(outcome) = self.wires.take(input) {
                    return End::Cancel(outcome);
                },
                event = events.message(), if free => {
                    let event = match event {
                        Ok(Some(ExecEvent { event })) => event,
                        Ok(None) => return End::Broken(ended_early()),
                        Err(status) => return End::Broken(status),
                    };
                    *moved = true;
                    // None: an event of a newer agent, and nothing that this bridge required.
                    let Some(event) = event else { continue };
                    match self.event(event).await {
                        Ok(None) => {}
                        Ok(Some(outcome)) => return End::Closed(outcome),
                        Err(outcome) => return End::Cancel(outcome),
                    }
                },
            }
        }
    }

    async fn event(&mut self, event: Event) -> Result<Option<Outcome>, Outcome> {
        match event {
            // Every link begins with it; the client is told once.
            Event::Started(_) if self.started => {}
            Event::Started(started) => {
                self.started = true;
                let json = serde_json::json!({ "exec_id": hex(&self.id), "pid": started.pid });
                self.outbox = Some(Frame::Started(json.to_string().into()));
            }
            Event::Output(output) => self.output(output).await?,
            Event::Gap(gap) => {
                return Err(Outcome::Lost(Failure::bug(&format!(
                    "the agent dropped {} bytes of output",
                    gap.length
                ))));
            }
            Event::Exited(record) => self.exit = Some(record),
            Event::Closed(closed) => return self.closed(&closed).map(Some),
        }
        Ok(None)
    }

    async fn output(&mut self, output: Output) -> Result<(), Outcome> {
        let (sink, frame): (_, fn(Bytes) -> Frame) = match output.stream() {
            Stream::Stdout => (&mut self.stdout, Frame::Stdout),
            Stream::Stderr => (&mut self.stderr, Frame::Stderr),
            Stream::Unspecified => {
                return Err(Outcome::Lost(Failure::bug(
                    "the agent sent output of an unknown stream",
                )));
            }
        };
        if output.offset != sink.offset {
            return Err(Outcome::Lost(Failure::bug("the agent's output has a hole")));
        }
        if output.data.len() >= MAX_LENGTH {
            return Err(Outcome::Lost(Failure::bug("the agent sent more at once than it may")));
        }
        sink.offset += output.data.len() as u64;
        match &sink.file {
            Some(file) => file.write_at(output.offset, output.data).await?,
            None => self.outbox = Some(frame(output.data)),
        }
        Ok(())
    }

    fn closed(&mut self, closed: &Closed) -> Result<Outcome, Outcome> {
        let Some(record) = self.exit.take() else {
            return Err(Outcome::Lost(Failure::bug(
                "the agent closed an exec without an exit record",
            )));
        };
        if (closed.stdout_length, closed.stderr_length) != (self.stdout.offset, self.stderr.offset) {
            return Err(Outcome::Lost(Failure::bug(
                "the agent's output is shorter than it says",
            )));
        }
        if !closed.spool_error.is_empty() {
            tracing::warn!(
                reason = closed.spool_error,
                "the agent could not put output into a file"
            );
        }
        ended(record, closed.held_open).ok_or_else(|| Outcome::Lost(Failure::bug("the exit record has no cause")))
    }
}

/// The stream ended in good order but not with `Closed`: the agent ends.
fn ended_early() -> Status {
    // With a cause of our own it counts as a broken link.
    let error = io::Error::new(io::ErrorKind::UnexpectedEof, "the agent ended the output early");
    Status::from_error(Box::new(error))
}
