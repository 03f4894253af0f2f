//! One exec as its client sees it, over all its links: queues the client's input, sends the output to the client, and
//! knows the offsets of both. `driver` uses it.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use podbridge_proto::limits::check_length;
use podbridge_proto::v1::exec_event::Event;
use podbridge_proto::v1::{Closed, ExecEvent, ExitRecord, Output, Stream};
use podbridge_proto::words::clean;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tonic::{Status, Streaming};

use crate::connections::Lane;
use crate::error::{Failure, Kind};
use crate::protocol::frame::Frame;
use crate::protocol::request::Size;
use crate::protocol::result::{EndedExec, Outcome};
use crate::session::budget::{Credit, InputCredit};
use crate::session::client::{Client, ClientInput, Reply, bad_request};
use crate::session::exec::control::ControlMessage;
use crate::session::exec::outcome::from_exit_record;
use crate::session::exec::stdin;
use crate::session::files::passed_file::LocalFile;
use crate::session::news::News;
use crate::session::unacknowledged::InputPart;

/// Queues of the client's input. They are filled even before the command runs.
pub(crate) struct InputQueues {
    pub(crate) stdin: mpsc::UnboundedSender<InputPart>,
    pub(crate) controls: mpsc::UnboundedSender<(ControlMessage, InputCredit)>,
}

impl InputQueues {
    /// Queues one input. Returns an outcome if the input ends the operation. When the command has ended the receivers
    /// are gone, and the input is dropped.
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
            Some(ClientInput::Disconnected) | None => return Some(Outcome::Cancelled(EndedExec::default())),
            Some(ClientInput::ProtocolError(why)) => return Some(bad_request(why)),
        }
        None
    }
}

/// Destination of one output stream, and its offset.
pub(crate) struct OutputSink {
    /// File that gets the output; `None`: the client gets it as frames.
    file: Option<LocalFile>,
    /// Offset of the next byte.
    pub(crate) offset: u64,
}

impl OutputSink {
    pub(crate) fn new(file: Option<LocalFile>, offset: u64) -> Self {
        Self { file, offset }
    }
}

/// How the events of one link ended.
pub(crate) enum LinkEnd {
    Closed(Outcome),
    /// The client ended the exec, or the exec cannot continue.
    Cancel(Outcome),
    Broken(Status),
    /// The client stands still, and so do too many others. The stream was closed; the rest follows when the client takes more.
    LetGo,
    /// The bridge has no place for a message of output. The stream was closed; the rest follows when there is one.
    NoPlace,
    /// Others wait for the place of this stream, which was closed.
    GavePlaceUp,
}

/// What follows from an event.
enum Handled {
    Whole,
    /// The bridge has no place for the rest of the output.
    Cut,
    Closed(Outcome),
}

/// What waits for space in the client's queue.
pub(crate) enum Unsent {
    Frame(Frame),
    /// The rest of one event's output.
    Output(Stream, Bytes),
}

/// State of one exec.
pub(crate) struct RunningExec {
    pub(crate) id: [u8; 16],
    pub(crate) client: Client,
    pub(crate) input_queues: InputQueues,
    pub(crate) acks: watch::Receiver<stdin::Ack>,
    /// Outcome of a stdin file that cannot be read.
    pub(crate) broken_stdin: mpsc::Receiver<Outcome>,
    pub(crate) stdout: OutputSink,
    pub(crate) stderr: OutputSink,
    /// Whether the client knows that the command has started.
    pub(crate) started: bool,
    /// What waits for space in the client's queue. While it waits, no event is read, so HTTP/2 flow control holds the agent
    /// back.
    pub(crate) outbox: Option<Unsent>,
    /// Lets the stream keep a whole message of output; given up with the stream.
    pub(crate) place: Option<Credit>,
    /// The exit record. The outcome follows from it when the output is complete.
    pub(crate) exit: Option<ExitRecord>,
}

impl RunningExec {
    /// Tells the client which agent will have the exec, before anything is sent to that agent. An error means that the
    /// client disconnected.
    pub(crate) async fn tell_agent(&self, instance: &str) -> Result<(), mpsc::error::SendError<Reply>> {
        let json = serde_json::json!({ "instance": instance }).to_string();
        self.client.replies.send(Frame::Agent(json.into())).await
    }

    /// Runs `future` while the client's input is queued. Returns an outcome if the client ends the exec meanwhile.
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

    /// Forwards events to the client until the link or the exec ends. Sets `received` if an event told something new. `lane`: that of
    /// the stream.
    pub(crate) async fn forward_events(
        &mut self,
        mut events: Streaming<ExecEvent>,
        lane: Lane,
        received: &mut bool,
    ) -> LinkEnd {
        let replies = self.client.replies.clone();
        // Runs while the client takes nothing.
        let mut stall_timeout = None;
        let (opened, mut last_output) = (Instant::now(), None);
        let mut news = News::default();
        loop {
            // Most often the client is ready, and there is nothing to wait for.
            if self.outbox.is_some()
                && let Ok(permit) = replies.queue.try_reserve()
                && let Some(unsent) = self.outbox.take()
            {
                stall_timeout = None;
                permit.send(self.next_reply(unsent));
                continue;
            }
            let outbox_free = self.outbox.is_none();
            let standing = async {
                if outbox_free {
                    std::future::pending::<()>().await;
                }
                stall_timeout
                    .get_or_insert_with(|| Box::pin(replies.budget.stall_timeout(lane)))
                    .await;
            };
            let has_place = self.place.is_some();
            let place_wanted = async {
                if !has_place {
                    std::future::pending::<()>().await;
                }
                replies.budget.place_wanted(opened, last_output).await;
            };
            tokio::select! {
                permit = replies.reserve(), if !outbox_free => match (permit, self.outbox.take()) {
                    (Ok(permit), Some(unsent)) => {
                        stall_timeout = None;
                        permit.send(self.next_reply(unsent));
                    }
                    _ => return LinkEnd::Cancel(Outcome::Cancelled(EndedExec::default())),
                },
                Ok(()) = self.acks.changed(), if outbox_free => {
                    let stdin::Ack { offset, closed } = *self.acks.borrow_and_update();
                    self.outbox = Some(Unsent::Frame(Frame::StdinAck { offset, closed }));
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
                    let before = self.progress();
                    let mut is_cut = false;
                    // An event of a newer agent is empty. This bridge has not required it.
                    if let Some(event) = event {
                        match self.handle_event(event).await {
                            Ok(Handled::Whole) => {}
                            Ok(Handled::Cut) => is_cut = true,
                            Ok(Handled::Closed(outcome)) => return LinkEnd::Closed(outcome),
                            Err(outcome) => return LinkEnd::Cancel(outcome),
                        }
                    }
                    let is_new = self.progress() != before;
                    *received |= is_new;
                    last_output = Some(Instant::now());
                    if is_cut {
                        return LinkEnd::NoPlace;
                    }
                    if let Err(repetition) = news.note(is_new) {
                        return LinkEnd::Cancel(Outcome::lost(Kind::AgentLost, repetition.to_string()));
                    }
                },
                () = place_wanted, if outbox_free => return LinkEnd::GavePlaceUp,
                () = standing => {
                    self.give_output_back();
                    return LinkEnd::LetGo;
                }
            }
        }
    }

    /// Returns what the agent has told so far. It changes with each event that tells something new.
    fn progress(&self) -> (bool, u64, u64, bool) {
        (
            self.started,
            self.stdout.offset,
            self.stderr.offset,
            self.exit.is_some(),
        )
    }

    /// Makes the next frame of what waits; the rest of it goes on waiting.
    fn next_reply(&mut self, unsent: Unsent) -> Reply {
        match unsent {
            Unsent::Frame(frame) => frame.into(),
            Unsent::Output(stream, mut data) => {
                let frame = match stream {
                    Stream::Stderr => Frame::Stderr,
                    Stream::Stdout | Stream::Unspecified => Frame::Stdout,
                };
                let reply = self.client.replies.piece(&mut data, frame);
                if !data.is_empty() {
                    self.outbox = Some(Unsent::Output(stream, data));
                }
                reply
            }
        }
    }

    /// Forgets output that the client has not got: the agent will send it again.
    fn give_output_back(&mut self) {
        if let Some(Unsent::Output(stream, data)) = self.outbox.take_if(|unsent| matches!(unsent, Unsent::Output(..))) {
            let sink = if stream == Stream::Stderr {
                &mut self.stderr
            } else {
                &mut self.stdout
            };
            sink.offset -= data.len() as u64;
        }
    }

    /// Waits until the client takes more; an error is the outcome of an exec that the client has ended. Returns early after `limit`,
    /// so that the agent does not take the command for one that nobody wants.
    pub(crate) async fn wait_for_client(&mut self, limit: Duration) -> Result<(), Outcome> {
        let replies = self.client.replies.clone();
        let ready = timeout(limit, async { replies.reserve().await.map(drop) });
        match self.while_listening(ready).await? {
            Ok(Err(_)) => Err(Outcome::Cancelled(EndedExec::default())),
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }

    /// Gives the client what waits for it, and waits for a place for the next stream. As `wait_for_client`.
    pub(crate) async fn wait_for_place(&mut self, limit: Duration) -> Result<(), Outcome> {
        let replies = self.client.replies.clone();
        let ends = Instant::now() + limit;
        while self.outbox.is_some() {
            let permit = match self.while_listening(timeout_at(ends, replies.reserve())).await? {
                Ok(Ok(permit)) => permit,
                Ok(Err(_)) => return Err(Outcome::Cancelled(EndedExec::default())),
                Err(_) => return Ok(()),
            };
            if let Some(unsent) = self.outbox.take() {
                permit.send(self.next_reply(unsent));
            }
        }
        self.wait_for_client(ends - Instant::now()).await?;
        let place = self.while_listening(timeout_at(ends, replies.budget.message_place()));
        self.place = place.await?.ok();
        Ok(())
    }

    /// Handles one event. An error cancels the exec.
    async fn handle_event(&mut self, event: Event) -> Result<Handled, Outcome> {
        match event {
            // The agent sends it at the start of every link. The client gets it once.
            Event::Started(_) if self.started => {}
            Event::Started(started) => {
                self.started = true;
                let mut json = serde_json::json!({ "exec_id": HEXLOWER.encode(&self.id), "pid": started.pid });
                if !started.python.is_empty() {
                    json["python"] = clean(&started.python).into();
                }
                self.outbox = Some(Unsent::Frame(Frame::Started(json.to_string().into())));
            }
            Event::Output(output) => return self.handle_output(output).await,
            Event::Gap(gap) => {
                return Err(Outcome::Lost(Failure::bug(&format!(
                    "the agent dropped {} bytes of output",
                    gap.length
                ))));
            }
            Event::Exited(record) => self.exit = Some(record),
            Event::Closed(closed) => return self.handle_closed(&closed).map(Handled::Closed),
        }
        Ok(Handled::Whole)
    }

    /// Sends output to its destination, as much as the bridge has place for. An error cancels the exec.
    async fn handle_output(&mut self, output: Output) -> Result<Handled, Outcome> {
        let stream = output.stream();
        let sink = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
            Stream::Unspecified => {
                return Err(Outcome::Lost(Failure::bug(
                    "the agent sent output of an unknown stream",
                )));
            }
        };
        if output.offset != sink.offset {
            return Err(Outcome::Lost(Failure::bug("the agent left out a part of the output")));
        }
        sink.offset = check_length(sink.offset, output.data.len() as u64, None)
            .map_err(|error| Outcome::lost(Kind::AgentLost, format!("the agent sent impossible output: {error}")))?;
        let mut data = output.data;
        let cut = self.client.replies.budget.cut_output(&mut data, &mut self.place);
        sink.offset -= cut as u64;
        match &sink.file {
            Some(file) => file.write_at(output.offset, data).await?,
            None => self.outbox = Some(Unsent::Output(stream, data)),
        }
        Ok(if cut == 0 { Handled::Whole } else { Handled::Cut })
    }

    /// Returns the outcome of an exec whose output is complete.
    fn handle_closed(&mut self, closed: &Closed) -> Result<Outcome, Outcome> {
        let Some(record) = self.exit.take() else {
            return Err(Outcome::Lost(Failure::bug(
                "the agent closed an exec without an exit record",
            )));
        };
        if (closed.stdout_length, closed.stderr_length) != (self.stdout.offset, self.stderr.offset) {
            return Err(Outcome::Lost(Failure::bug(
                "the agent's output is shorter than the agent reports",
            )));
        }
        if !closed.spool_error.is_empty() {
            tracing::warn!(
                reason = clean(&closed.spool_error),
                "the agent could not write output to a file"
            );
        }
        from_exit_record(record, closed.held_open)
            .ok_or_else(|| Outcome::Lost(Failure::bug("the exit record has no cause")))
    }
}

/// Returns the error of a stream that ended without `Closed`, as when the agent ends.
fn ended_early() -> Status {
    // A status with an error as its source counts as a broken link.
    let error = io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the agent ended the output before the end of the command",
    );
    Status::from_error(Box::new(error))
}
