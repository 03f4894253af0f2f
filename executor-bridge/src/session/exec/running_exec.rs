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
use crate::session::client::{Client, ClientInput, InputCredit, bad_request};
use crate::session::exec::control::ControlMessage;
use crate::session::exec::outcome::from_exit_record;
use crate::session::exec::stdin;
use crate::session::files::passed_file::LocalFile;
use crate::session::unacknowledged::InputPart;

/// Where the client's inputs go; filled also before the command runs.
pub(crate) struct InputQueues {
    pub(crate) stdin: mpsc::UnboundedSender<InputPart>,
    pub(crate) controls: mpsc::UnboundedSender<(ControlMessage, InputCredit)>,
}

impl InputQueues {
    /// An outcome if the client's input ends the operation. Nobody listens once the command has ended: no matter.
    fn enqueue(&mut self, input: Option<ClientInput>) -> Option<Outcome> {
        match input {
            Some(ClientInput::Stdin(data, credit)) => drop(self.stdin.send(InputPart::Data(data, credit))),
            Some(ClientInput::StdinEof(_)) => drop(self.stdin.send(InputPart::Eof)),
            Some(ClientInput::Signal(number, credit)) => {
                drop(self.controls.send((ControlMessage::Signal(number), credit)))
            }
            Some(ClientInput::Resize { rows, cols, credit }) => {
                drop(
                    self.controls
                        .send((ControlMessage::Resize(Size { rows, cols }), credit)),
                );
            }
            Some(ClientInput::Disconnected) | None => return Some(Outcome::Cancelled(Ended::default())),
            Some(ClientInput::ProtocolError(why)) => return Some(bad_request(why)),
        }
        None
    }
}

/// Where one output stream goes, and how far it is.
pub(crate) struct OutputSink {
    file: Option<LocalFile>,
    pub(crate) offset: u64,
}

impl OutputSink {
    pub(crate) fn new(file: Option<LocalFile>, offset: u64) -> Self {
        Self { file, offset }
    }
}

/// How one link ended.
pub(crate) enum LinkEnd {
    Closed(Outcome),
    /// Ended by the client, or by what cannot go on.
    Cancel(Outcome),
    Broken(Status),
}

pub(crate) struct RunningExec {
    pub(crate) id: [u8; 16],
    pub(crate) client: Client,
    pub(crate) input_queues: InputQueues,
    pub(crate) acks: mpsc::UnboundedReceiver<stdin::Ack>,
    /// The file that is its stdin cannot be read.
    pub(crate) broken_stdin: mpsc::Receiver<Outcome>,
    pub(crate) stdout: OutputSink,
    pub(crate) stderr: OutputSink,
    pub(crate) started: bool,
    /// A frame that the client has no room for yet: while it waits, no event is read, and HTTP/2 holds the agent back.
    pub(crate) outbox: Option<Frame>,
    pub(crate) exit: Option<ExitRecord>,
}

impl RunningExec {
    /// Tells the client, before anything is sent, which agent may have the exec from now on. An error: it has gone.
    pub(crate) async fn tell_agent(&self, instance: &str) -> Result<(), mpsc::error::SendError<Frame>> {
        let json = serde_json::json!({ "instance": instance }).to_string();
        self.client.replies.send(Frame::Agent(json.into())).await
    }

    /// Waits for something else while the client is heard; its outcome if it ends the exec.
    pub(crate) async fn while_listening<T>(&mut self, future: impl Future<Output = T>) -> Result<T, Outcome> {
        tokio::pin!(future);
        loop {
            tokio::select! {
                done = &mut future => return Ok(done),
                Some(outcome) = self.broken_stdin.recv() => return Err(outcome),
                input = self.client.inputs.recv() => if let Some(outcome) = self.input_queues.enqueue(input) {
                    return Err(outcome);
                },
            }
        }
    }

    /// Carries events to the client as long as the link lives. True in `moved` if any came.
    pub(crate) async fn forward_events(&mut self, mut events: Streaming<ExecEvent>, received: &mut bool) -> LinkEnd {
        let replies = self.client.replies.clone();
        loop {
            let outbox_free = self.outbox.is_none();
            tokio::select! {
                permit = replies.reserve(), if !outbox_free => match (permit, self.outbox.take()) {
                    (Ok(permit), Some(frame)) => permit.send(frame),
                    _ => return LinkEnd::Cancel(Outcome::Cancelled(Ended::default())),
                },
                Some(stdin::Ack { offset, closed }) = self.acks.recv(), if outbox_free => {
                    self.outbox = Some(Frame::StdinAck { offset, closed });
                }
                Some(outcome) = self.broken_stdin.recv() => return LinkEnd::Cancel(outcome),
                input = self.client.inputs.recv() => if let Some(outcome) = self.input_queues.enqueue(input) {
                    return LinkEnd::Cancel(outcome);
                },
                event = events.message(), if outbox_free => {
                    let event = match event {
                        Ok(Some(ExecEvent { event })) => event,
                        Ok(None) => return LinkEnd::Broken(ended_early()),
                        Err(status) => return LinkEnd::Broken(status),
                    };
                    *received = true;
                    // None: an event of a newer agent, and nothing that this bridge required.
                    let Some(event) = event else { continue };
                    match self.handle_event(event).await {
                        Ok(None) => {}
                        Ok(Some(outcome)) => return LinkEnd::Closed(outcome),
                        Err(outcome) => return LinkEnd::Cancel(outcome),
                    }
                },
            }
        }
    }

    async fn handle_event(&mut self, event: Event) -> Result<Option<Outcome>, Outcome> {
        match event {
            // Every link begins with it; the client is told once.
            Event::Started(_) if self.started => {}
            Event::Started(started) => {
                self.started = true;
                let json = serde_json::json!({ "exec_id": hex(&self.id), "pid": started.pid });
                self.outbox = Some(Frame::Started(json.to_string().into()));
            }
            Event::Output(output) => self.handle_output(output).await?,
            Event::Gap(gap) => {
                return Err(Outcome::Lost(Failure::bug(&format!(
                    "the agent dropped {} bytes of output",
                    gap.length
                ))));
            }
            Event::Exited(record) => self.exit = Some(record),
            Event::Closed(closed) => return self.handle_closed(&closed).map(Some),
        }
        Ok(None)
    }

    async fn handle_output(&mut self, output: Output) -> Result<(), Outcome> {
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

    fn handle_closed(&mut self, closed: &Closed) -> Result<Outcome, Outcome> {
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
        from_exit_record(record, closed.held_open)
            .ok_or_else(|| Outcome::Lost(Failure::bug("the exit record has no cause")))
    }
}

/// The stream ended in good order but not with `Closed`: the agent ends.
fn ended_early() -> Status {
    // With a cause of our own it counts as a broken link.
    let error = io::Error::new(io::ErrorKind::UnexpectedEof, "the agent ended the output early");
    Status::from_error(Box::new(error))
}
