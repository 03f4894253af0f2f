//! A command with our signals and terminal and streams on this side, over one bridge after the other. `podbridge exec`, `podbridge sync`
//! and the `kubectl` shim run it.

use std::pin::pin;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use tokio::task::spawn_blocking;

use crate::client::connection::{Incoming, Message, Outgoing};
use crate::client::conversation::Conversation;
use crate::client::signals::{Event, Signals};
use crate::client::streams::{Printer, Stream, Streams, forward_stdin};
use crate::client::{BridgeAddress, runtime};
use crate::error::{Failure, Kind};
use crate::protocol::request::{Exec, Input, Operation, Request};
use crate::protocol::result::Outcome;
use crate::{exit, terminal};

/// So many interrupts that the command ignores, and we leave; the bridge then ends its tree.
const PATIENCE: usize = 3;
/// How long bridges may die one after the other until we give up: it may be the command that kills them.
const DYING: Duration = Duration::from_secs(30);
/// A bridge that lived for so long died for another reason than the one before it.
const LIVED: Duration = Duration::from_secs(1);
/// A dying bridge still accepts connections for a moment.
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(crate) enum Ended {
    Outcome(Outcome),
    /// Without waiting for the command.
    Left(u8),
}

/// Runs the command to its end.
pub(crate) fn attend(
    bridge: BridgeAddress,
    container: Option<String>,
    exec: Exec,
    streams: Streams,
) -> Result<Ended, Failure> {
    let runtime = runtime()?;
    let (takes_stdin, tty) = (exec.stdin == Input::Stream, exec.pty.is_some());
    let request = Request {
        container,
        operation: Operation::Exec(Box::new(exec)),
    };
    let ended = runtime.block_on(async {
        let Conversation { incoming, outgoing } = bridge.begin(&request).await?;
        let attended = Attended {
            bridge,
            request,
            incoming,
            outgoing,
            // Not earlier: until a bridge has the command, a signal ends us as it ends any program.
            signals: Signals::watch(tty)?,
            interrupts: Interrupts::default(),
        };
        let _raw = match tty {
            true => terminal::Raw::enter()
                .map_err(|error| Failure::new(Kind::Internal, format!("the terminal cannot be made raw: {error}")))?,
            false => None,
        };
        attended.run(streams, takes_stdin).await
    });
    // A thread that reads our stdin may wait for ever.
    runtime.shutdown_background();
    ended
}

/// Interrupts, counted: a command may ignore them.
#[derive(Default)]
struct Interrupts {
    started: bool,
    count: usize,
}

impl Interrupts {
    /// The exit code if we leave for this one.
    fn gives_up(&mut self, event: &Event) -> Option<u8> {
        let Event::Signal(number) = event else { return None };
        self.count += 1;
        (!self.started || self.count > PATIENCE).then(|| 128 + number)
    }
}

struct Attended {
    bridge: BridgeAddress,
    request: Request,
    incoming: Incoming,
    outgoing: Outgoing,
    signals: Signals,
    interrupts: Interrupts,
}

impl Attended {
    async fn run(mut self, streams: Streams, takes_stdin: bool) -> Result<Ended, Failure> {
        let printer = Printer::start(streams.stdout, streams.stderr);
        let mut stdin = Some(streams.stdin).filter(|_| takes_stdin);
        let (mut dying, mut connected) = (None, Instant::now());
        let mut unprinted = None;
        let ended = loop {
            tokio::select! {
                // Our output cannot be written: leaving ends the command.
                () = printer.queue.closed() => break Ended::Left(exit::BROKEN_PIPE),
                room = printer.queue.reserve(), if unprinted.is_some() => {
                    if let (Ok(room), Some(output)) = (room, unprinted.take()) {
                        room.send(output);
                    }
                }
                message = self.incoming.next(), if unprinted.is_none() => match message {
                    Message::Started => {
                        self.interrupts.started = true;
                        // Not earlier: until then the request is all that was sent, and if it was not read, nothing ran.
                        if let Some(stdin) = stdin.take() {
                            tokio::spawn(forward_stdin(stdin, self.outgoing.clone()));
                        }
                    }
                    Message::Lost(outcome) => {
                        dying = dying.filter(|_| connected.elapsed() < LIVED);
                        if dying.get_or_insert_with(Instant::now).elapsed() > DYING {
                            break Ended::Outcome(outcome);
                        }
                        tokio::time::sleep(PAUSE).await;
                        if let Err(ended) = self.go_on(outcome).await {
                            break ended;
                        }
                        connected = Instant::now();
                    }
                    Message::Stdout(data) => unprinted = Some((Stream::Stdout, data)),
                    Message::Stderr(data) => unprinted = Some((Stream::Stderr, data)),
                    Message::Result(outcome) => break Ended::Outcome(outcome),
                },
                event = self.signals.next() => {
                    if let Some(code) = self.interrupts.gives_up(&event) {
                        break Ended::Left(code);
                    }
                    self.deliver(event).await;
                }
            }
        };
        if let Ended::Left(code) = ended
            && code != exit::BROKEN_PIPE
        {
            // Its output may stand still, which is why we leave.
            return Ok(ended);
        }
        let mut printed = spawn_blocking(move || printer.finish());
        let printed = loop {
            tokio::select! {
                printed = &mut printed => break printed.unwrap_or(Ok(())),
                event = self.signals.next() => if let Event::Signal(number) = event {
                    return Ok(Ended::Left(128 + number));
                }
            }
        };
        match printed {
            Ok(()) => Ok(ended),
            // Nobody reads it.
            Err(Errno::PIPE) => Ok(Ended::Left(exit::BROKEN_PIPE)),
            Err(errno) => Err(Failure::new(
                Kind::LocalFile,
                format!(
                    "the command's output cannot be written here: {}",
                    std::io::Error::from(errno)
                ),
            )),
        }
    }

    /// Goes on with another bridge, which gets the signals that came until it was there. `lost` is the end without one.
    async fn go_on(&mut self, lost: Outcome) -> Result<(), Ended> {
        if let Operation::Exec(exec) = &mut self.request.operation {
            exec.resume = self.incoming.progress();
        }
        let mut missed = Vec::new();
        let next = {
            let mut beginning = pin!(self.bridge.begin(&self.request));
            loop {
                tokio::select! {
                    next = &mut beginning => break next,
                    event = self.signals.next() => {
                        if let Some(code) = self.interrupts.gives_up(&event) {
                            return Err(Ended::Left(code));
                        }
                        missed.push(event);
                    }
                }
            }
        };
        let Ok(next) = next else {
            return Err(Ended::Outcome(lost));
        };
        self.incoming.go_on(next.incoming);
        self.outgoing.go_on(next.outgoing).await;
        for event in missed {
            self.deliver(event).await;
        }
        Ok(())
    }

    async fn deliver(&self, event: Event) {
        match event {
            Event::Signal(number) => self.outgoing.signal(number).await,
            Event::Resized => {
                let size = terminal::size();
                self.outgoing.resize(size.rows, size.cols).await;
            }
        }
    }
}
