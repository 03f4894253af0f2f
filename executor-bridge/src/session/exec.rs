//! One exec: started once, its output carried to the client as it comes, its end told only from the agent's exit record.
//! A client that goes away has it cancelled.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use podbridge_proto::limits::MAX_INLINE_STDIN;
use podbridge_proto::v1::exec_event::Event;
use podbridge_proto::v1::exit_record::Cause;
use podbridge_proto::v1::{
    CancelRequest, Closed, EnvVar, ExecEvent, ExitRecord, Output, Pty, ReleaseRequest, ResizeRequest, RunRequest,
    SignalRequest, StartRequest, StdinMode, Stream,
};
use prost::Message as _;
use rustix::rand::{GetRandomFlags, getrandom};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::{Status, Streaming};

use super::container::Container;
use super::descriptor::{self, Access, LocalFile};
use super::stdin::{self, Piece};
use super::{Charge, Client, Connection, Errands, Input, bad_request, diagnosis, internal, status};
use crate::protocol::frame::{Frame, MAX_LENGTH};
use crate::protocol::request::{self, Size};
use crate::protocol::result::{Ended, Outcome};
use crate::protocol::target::hex;

/// A request that was provably not sent is sent again on a new link, so often.
const ATTEMPTS: usize = 3;

pub(super) async fn run(
    container: &Container,
    errands: &Errands,
    request: request::Exec,
    mut client: Client,
) -> Outcome {
    let prepared = match prepare(request, &mut client).await {
        Ok(prepared) => prepared,
        Err(outcome) => return outcome,
    };
    let Prepared {
        start,
        id,
        stdin_file,
        stdout,
        stderr,
    } = prepared;
    let (pieces, queued_pieces) = mpsc::unbounded_channel();
    let (controls, queued_controls) = mpsc::unbounded_channel();
    let mut wires = Wires { pieces, controls };

    let sent_on = Mutex::new(None);
    let opening = open(container, &start, &sent_on);
    tokio::pin!(opening);
    let opened = loop {
        tokio::select! {
            opened = &mut opening => break opened,
            input = client.inputs.recv() => if let Some(outcome) = wires.take(input) {
                // Sent or not, started or not: the agent fences the id.
                if let Some(connection) = sent_on.lock().unwrap_or_else(PoisonError::into_inner).take() {
                    cancel(errands, &connection, id);
                }
                return outcome;
            },
        }
    };
    let (connection, events) = match opened {
        Ok(opened) => opened,
        Err(Unopened::Outcome(outcome)) => return *outcome,
        Err(Unopened::Lost(connection, hint)) => return diagnosis::lost(container, &connection, &hint).await,
    };
    let (acks, incoming_acks) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    tasks.spawn(stdin::pump(connection.exec(), id, queued_pieces, acks));
    tasks.spawn(control(connection.clone(), id, queued_controls));
    if let Some(file) = stdin_file {
        tasks.spawn(stdin::read_file(file, wires.pieces.clone()));
    }
    let running = Running {
        id,
        client,
        wires,
        events,
        acks: incoming_acks,
        stdout: Sink::new(stdout),
        stderr: Sink::new(stderr),
        outbox: None,
        exit: None,
    };
    match running.follow().await {
        End::Closed(outcome) => {
            let mut exec = connection.exec();
            errands.send(async move {
                let exec_id = Bytes::copy_from_slice(&id);
                // Its lease would release it as well.
                let _ = exec.release(ReleaseRequest { exec_id }).await;
            });
            outcome
        }
        End::Cancel(outcome) => {
            cancel(errands, &connection, id);
            outcome
        }
        End::Broken(status) if diagnosis::is_broken_link(&status, &connection) => {
            diagnosis::lost(container, &connection, &crate::error::chain(&status)).await
        }
        End::Broken(status) => status::outcome(&status),
    }
}

struct Prepared {
    start: StartRequest,
    id: [u8; 16],
    /// Too long to travel inside Start.
    stdin_file: Option<LocalFile>,
    stdout: Option<LocalFile>,
    stderr: Option<LocalFile>,
}

async fn prepare(request: request::Exec, client: &mut Client) -> Result<Prepared, Outcome> {
    let descriptors = &mut client.descriptors;
    let input = match request.stdin {
        request::Input::Fd => Some(descriptor::take(descriptors, "stdin", Access::Read)?),
        request::Input::None | request::Input::Stream => None,
    };
    let mut output = |what, mode| match mode {
        request::Output::Fd => descriptor::take(descriptors, what, Access::Write).map(Some),
        request::Output::Stream => Ok(None),
    };
    let stdout = output("stdout", request.stdout)?;
    let stderr = output("stderr", request.stderr)?;
    let id = match request.id() {
        Some(id) => id,
        None => random_id(),
    };
    let timeout_ms = request.timeout().map_or(0, |timeout| timeout.as_millis() as u64);
    let shell = |script: Vec<u8>| vec![Bytes::from_static(b"/bin/sh"), Bytes::from_static(b"-c"), script.into()];
    let argv = match (request.argv, request.shell) {
        (Some(argv), _) => argv.into_iter().map(|argument| argument.0.into()).collect(),
        (None, Some(script)) => shell(script.0),
        (None, None) => return Err(bad_request("exec needs argv or shell")),
    };
    let (mode, inline, stdin_file) = match (request.stdin, input) {
        (request::Input::Stream, _) => (StdinMode::Stream, Bytes::new(), None),
        (_, None) => (StdinMode::Unspecified, Bytes::new(), None),
        // One round trip for a module and its result.
        (_, Some(file)) if file.size() <= MAX_INLINE_STDIN as u64 => {
            let content = file.read_at(0, file.size() as usize).await?;
            (StdinMode::Inline, content, None)
        }
        (_, Some(file)) => (StdinMode::Stream, Bytes::new(), Some(file)),
    };
    let mut start = StartRequest {
        exec_id: Bytes::copy_from_slice(&id),
        argv,
        env: request
            .env
            .into_iter()
            .map(|(name, value)| EnvVar {
                name: name.0.into(),
                value: value.0.into(),
            })
            .collect(),
        cwd: request.cwd.map(|cwd| cwd.0.into()).unwrap_or_default(),
        user: request.user.unwrap_or_default(),
        pty: request.pty.map(size),
        stdin_mode: mode.into(),
        stdin: inline,
        timeout_ms,
        kill_grace_ms: request.kill_grace_ms.unwrap_or(0),
        ..StartRequest::default()
    };
    start.digest = Sha256::digest(start.encode_to_vec()).to_vec().into();
    Ok(Prepared {
        start,
        id,
        stdin_file,
        stdout,
        stderr,
    })
}

fn random_id() -> [u8; 16] {
    let mut id = [0; 16];
    // The kernel gives so few bytes at once, always.
    let _ = getrandom(&mut id, GetRandomFlags::empty());
    id
}

fn size(size: Size) -> Pty {
    Pty {
        rows: size.rows.into(),
        cols: size.cols.into(),
    }
}

enum Unopened {
    Outcome(Box<Outcome>),
    /// It may have started.
    Lost(Arc<Connection>, String),
}

/// Starts the command; once, whatever links it takes.
async fn open(
    container: &Container,
    start: &StartRequest,
    sent_on: &Mutex<Option<Arc<Connection>>>,
) -> Result<(Arc<Connection>, Streaming<ExecEvent>), Unopened> {
    let mut attempt = 1;
    loop {
        let connection = container
            .connection()
            .await
            .map_err(|failure| Unopened::Outcome(Box::new(Outcome::Unreachable(failure))))?;
        *sent_on.lock().unwrap_or_else(PoisonError::into_inner) = Some(connection.clone());
        let request = RunRequest {
            start: Some(start.clone()),
            ..RunRequest::default()
        };
        match connection.exec().run(request).await {
            Ok(events) => return Ok((connection, events.into_inner())),
            Err(status) if attempt < ATTEMPTS && diagnosis::provably_not_sent(&status) => {
                connection
                    .handle
                    .end("the connection had ended before the request was sent");
                attempt += 1;
            }
            Err(status) if diagnosis::is_broken_link(&status, &connection) => {
                return Err(Unopened::Lost(connection, crate::error::chain(&status)));
            }
            Err(status) => return Err(Unopened::Outcome(Box::new(status::outcome(&status)))),
        }
    }
}

fn cancel(errands: &Errands, connection: &Connection, id: [u8; 16]) {
    let mut exec = connection.exec();
    errands.send(async move {
        let request = CancelRequest {
            exec_id: Bytes::copy_from_slice(&id),
            reason: "its client went away".into(),
        };
        if let Err(status) = exec.cancel(request).await {
            tracing::warn!(
                error = status.message(),
                "cancel did not reach the agent; the lease will end the command"
            );
        }
    });
}

/// Where the client's inputs go; filled also before the command runs.
struct Wires {
    pieces: mpsc::UnboundedSender<Piece>,
    controls: mpsc::UnboundedSender<(Control, Charge)>,
}

enum Control {
    Signal(u8),
    Resize(Size),
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

/// Signals and sizes, in order.
async fn control(connection: Arc<Connection>, id: [u8; 16], mut controls: mpsc::UnboundedReceiver<(Control, Charge)>) {
    let mut exec = connection.exec();
    while let Some((control, _charge)) = controls.recv().await {
        let exec_id = Bytes::copy_from_slice(&id);
        let sent = match control {
            Control::Signal(number) => {
                let request = SignalRequest {
                    exec_id,
                    signal: number.into(),
                    ..SignalRequest::default()
                };
                exec.signal(request).await.map(drop)
            }
            Control::Resize(wanted) => {
                let size = Some(size(wanted));
                exec.resize(ResizeRequest { exec_id, size }).await.map(drop)
            }
        };
        if let Err(status) = sent {
            // It has ended meanwhile, most likely; its exit record is on the way.
            tracing::debug!(error = status.message(), "signal or size not delivered");
        }
    }
}

/// Where one output stream goes, and how far it is.
struct Sink {
    file: Option<LocalFile>,
    offset: u64,
}

impl Sink {
    fn new(file: Option<LocalFile>) -> Self {
        Self { file, offset: 0 }
    }
}

enum End {
    Closed(Outcome),
    /// Ended by the client, or by what cannot go on.
    Cancel(Outcome),
    Broken(Status),
}

struct Running {
    id: [u8; 16],
    client: Client,
    wires: Wires,
    events: Streaming<ExecEvent>,
    acks: mpsc::UnboundedReceiver<stdin::Ack>,
    stdout: Sink,
    stderr: Sink,
    /// A frame that the client has no room for yet: while it waits, no event is read, and HTTP/2 holds the agent back.
    outbox: Option<Frame>,
    exit: Option<ExitRecord>,
}

impl Running {
    async fn follow(mut self) -> End {
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
                input = self.client.inputs.recv() => if let Some(outcome) = self.wires.take(input) {
                    return End::Cancel(outcome);
                },
                event = self.events.message(), if free => match event {
                    Ok(Some(ExecEvent { event: Some(event) })) => match self.event(event).await {
                        Ok(None) => {}
                        Ok(Some(outcome)) => return End::Closed(outcome),
                        Err(outcome) => return End::Cancel(outcome),
                    },
                    // An event of a newer agent: nothing that this bridge required.
                    Ok(Some(ExecEvent { event: None })) => {}
                    Ok(None) => return End::Broken(self.ended_early()),
                    Err(status) => return End::Broken(status),
                },
            }
        }
    }

    /// The stream ended in good order but not with `Closed`: the agent ends.
    fn ended_early(&self) -> Status {
        // With a cause of our own it counts as a broken link.
        let error = io::Error::new(io::ErrorKind::UnexpectedEof, "the agent ended the output early");
        Status::from_error(Box::new(error))
    }

    async fn event(&mut self, event: Event) -> Result<Option<Outcome>, Outcome> {
        match event {
            Event::Started(started) => {
                let json = serde_json::json!({ "exec_id": hex(&self.id), "pid": started.pid });
                self.outbox = Some(Frame::Started(json.to_string().into()));
            }
            Event::Output(output) => self.output(output).await?,
            Event::Gap(gap) => {
                return Err(Outcome::Lost(internal(&format!(
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
            Stream::Unspecified => return Err(Outcome::Lost(internal("the agent sent output of an unknown stream"))),
        };
        if output.offset != sink.offset {
            return Err(Outcome::Lost(internal("the agent's output has a hole")));
        }
        if output.data.len() >= MAX_LENGTH {
            return Err(Outcome::Lost(internal("the agent sent more at once than it may")));
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
            return Err(Outcome::Lost(internal(
                "the agent closed an exec without an exit record",
            )));
        };
        if (closed.stdout_length, closed.stderr_length) != (self.stdout.offset, self.stderr.offset) {
            return Err(Outcome::Lost(internal("the agent's output is shorter than it says")));
        }
        ended(record, closed.held_open).ok_or_else(|| Outcome::Lost(internal("the exit record has no cause")))
    }
}

fn ended(record: ExitRecord, held_open: bool) -> Option<Outcome> {
    let survivors = record.survivors;
    let tree = |what: &str, reason: String| {
        let mut message = match reason.as_str() {
            "" => format!("the command was {what}"),
            reason => format!("the command was {what}: {reason}"),
        };
        if !survivors.is_empty() {
            message.push_str("; some of its processes belong to another user and still run");
        }
        Ended {
            survivors: survivors.clone(),
            message,
            held_open,
        }
    };
    Some(match record.cause? {
        Cause::Exited(code) => Outcome::Exited {
            code: u8::try_from(code).unwrap_or(u8::MAX),
            held_open,
        },
        Cause::Signaled(signal) => Outcome::Signaled {
            signal: u8::try_from(signal).unwrap_or(u8::MAX),
            held_open,
            message: format!("the command was ended by signal {signal}"),
        },
        Cause::TimedOut(ended) => Outcome::TimedOut(tree("ended by its timeout", ended.reason)),
        Cause::Cancelled(ended) => Outcome::Cancelled(tree("cancelled", ended.reason)),
        Cause::OomKilled(ended) => Outcome::OomKilled {
            message: match ended.reason.as_str() {
                "" => "the command was ended because the container reached its memory limit; raise the limit".into(),
                reason => format!("the command was ended because the container reached its memory limit: {reason}"),
            },
            held_open,
        },
        Cause::StartFailed(failed) => Outcome::StartFailed {
            code: u8::try_from(failed.exit_code).unwrap_or(126),
            step: failed.step,
            errno: failed.errno,
            message: failed.message,
        },
    })
}
