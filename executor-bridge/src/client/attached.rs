//! An attached command: its standard streams, signals and terminal size are those of this process. It continues over the next bridge when
//! a bridge dies. `podbridge exec`, `ssh`, `docker` and `sync` and the kubectl shim run commands with it.

use std::pin::pin;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::client::connection::{Incoming, Message, Outgoing};
use crate::client::conversation::Conversation;
use crate::client::signals::{Event, Signals};
use crate::client::streams::{OutputStream, Printer, Streams, forward_stdin};
use crate::client::{BridgeAddress, runtime};
use crate::error::{Failure, Kind};
use crate::protocol::request::{Exec, Input, Operation, Request};
use crate::protocol::result::Outcome;
use crate::{exit, terminal};

/// Signals that the command may ignore; at the next one the client detaches, and the bridge then ends the command's process tree.
const IGNORED_SIGNALS_MAX: usize = 3;
/// Time limit for a series of bridge deaths, after which the client gives up: the command itself may be what kills the bridges.
const BRIDGE_DEATHS_WITHIN: Duration = Duration::from_secs(30);
/// A bridge that lived this long ends a series of deaths: its own death has another cause.
const STABLE_AFTER: Duration = Duration::from_secs(1);
/// Pause before the next bridge is tried: a dying bridge still accepts connections for a moment.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);

/// The end of an attached run.
#[derive(Debug)]
pub(crate) enum AttachedEnd {
    /// The run has a result.
    Outcome(Outcome),
    /// The client did not wait for the command; the value is the exit code.
    Detached(u8),
}

/// Runs the command until it ends or the client detaches. `Err` if no bridge took the request, or if this side failed.
pub(crate) fn run_attached(
    bridge: BridgeAddress,
    container: Option<String>,
    exec: Exec,
    streams: Streams,
) -> Result<AttachedEnd, Failure> {
    let runtime = runtime()?;
    let (takes_stdin, tty) = (exec.stdin == Input::Stream, exec.pty.is_some());
    let request = Request {
        container,
        operation: Operation::Exec(Box::new(exec)),
    };
    let end = runtime.block_on(async {
        let Conversation { incoming, outgoing } = bridge.begin(&request).await?;
        let attached = AttachedExec {
            bridge,
            request,
            incoming,
            outgoing,
            // Installed only now: until a bridge has the request, a signal ends this process as it ends any other.
            signals: Signals::watch(tty)?,
            interrupts: Interrupts::default(),
        };
        let _raw_mode = if tty {
            terminal::RawMode::enter().map_err(|error| {
                Failure::new(
                    Kind::Internal,
                    format!("the terminal cannot be switched to raw mode: {error}"),
                )
            })?
        } else {
            None
        };
        attached.run(streams, takes_stdin).await
    });
    // Do not wait for the thread that reads standard input: it may block for ever.
    runtime.shutdown_background();
    end
}

/// Counts signals, because a command may ignore them.
#[derive(Default)]
struct Interrupts {
    /// The command has started in the pod.
    started: bool,
    /// Signals so far.
    count: usize,
}

impl Interrupts {
    /// Counts a signal. Returns the exit code if the client is to exit because of it, `None` if the command is to get the event.
    fn interrupt_exits(&mut self, event: &Event) -> Option<u8> {
        let Event::Signal(number) = event else { return None };
        self.count += 1;
        (!self.started || self.count > IGNORED_SIGNALS_MAX).then(|| 128 + number)
    }
}

/// An attached command and its connection to the current bridge.
struct AttachedExec {
    bridge: BridgeAddress,
    /// Sent again to the next bridge, then with the progress so far.
    request: Request,
    incoming: Incoming,
    outgoing: Outgoing,
    signals: Signals,
    interrupts: Interrupts,
}

impl AttachedExec {
    async fn run(mut self, streams: Streams, takes_stdin: bool) -> Result<AttachedEnd, Failure> {
        let printer = Printer::start(streams.stdout, streams.stderr);
        let mut stdin = Some(streams.stdin).filter(|_| takes_stdin);
        let (mut deaths_since, mut connected_at) = (None, Instant::now());
        let mut next_output = None;
        let end = loop {
            tokio::select! {
                // The output cannot be written here: detach, and the bridge ends the command.
                () = printer.queue.closed() => break AttachedEnd::Detached(exit::BROKEN_PIPE),
                permit = printer.queue.reserve(), if next_output.is_some() => {
                    if let (Ok(permit), Some(output)) = (permit, next_output.take()) {
                        permit.send(output);
                    }
                }
                message = self.incoming.next(), if next_output.is_none() => match message {
                    Message::Started => {
                        self.interrupts.started = true;
                        // Standard input is sent only after the start: if the bridge dies without reading the request, nothing ran and
                        // no input was consumed.
                        if let Some(stdin) = stdin.take() {
                            tokio::spawn(forward_stdin(stdin, self.outgoing.clone()));
                        }
                    }
                    Message::Lost(outcome) => {
                        deaths_since = deaths_since.filter(|_| connected_at.elapsed() < STABLE_AFTER);
                        if deaths_since.get_or_insert_with(Instant::now).elapsed() > BRIDGE_DEATHS_WITHIN {
                            break AttachedEnd::Outcome(outcome);
                        }
                        tokio::time::sleep(RECONNECT_PAUSE).await;
                        if let Err(end) = self.switch_bridge(outcome).await {
                            break end;
                        }
                        connected_at = Instant::now();
                    }
                    Message::Stdout(data) => next_output = Some((OutputStream::Stdout, data)),
                    Message::Stderr(data) => next_output = Some((OutputStream::Stderr, data)),
                    Message::Result(outcome) => break AttachedEnd::Outcome(outcome),
                },
                event = self.signals.next() => {
                    if let Some(code) = self.interrupts.interrupt_exits(&event) {
                        break AttachedEnd::Detached(code);
                    }
                    self.send_event(event).await;
                }
            }
        };
        if let AttachedEnd::Detached(code) = end
            && code != exit::BROKEN_PIPE
        {
            // Do not wait for the printer: blocked output may be why the user interrupts.
            return Ok(end);
        }
        let mut printing = pin!(printer.finish());
        let printed = loop {
            tokio::select! {
                printed = &mut printing => break printed,
                event = self.signals.next() => if let Event::Signal(number) = event {
                    return Ok(AttachedEnd::Detached(128 + number));
                }
            }
        };
        match printed {
            Ok(()) => Ok(end),
            // The reader of the output has closed it.
            Err(Errno::PIPE) => Ok(AttachedEnd::Detached(exit::BROKEN_PIPE)),
            Err(errno) => Err(Failure::new(
                Kind::LocalFile,
                format!(
                    "the command's output cannot be written here: {}",
                    std::io::Error::from(errno)
                ),
            )),
        }
    }

    /// Continues over another bridge, and sends it the signals that arrive before it is connected. `Err` is the end of the run: `lost` if
    /// no bridge can be reached.
    async fn switch_bridge(&mut self, lost: Outcome) -> Result<(), AttachedEnd> {
        if let Operation::Exec(exec) = &mut self.request.operation {
            exec.resume = self.incoming.progress();
        }
        let mut pending_events = Vec::new();
        let next = {
            let mut connecting = pin!(self.bridge.begin(&self.request));
            loop {
                tokio::select! {
                    next = &mut connecting => break next,
                    event = self.signals.next() => {
                        if let Some(code) = self.interrupts.interrupt_exits(&event) {
                            return Err(AttachedEnd::Detached(code));
                        }
                        pending_events.push(event);
                    }
                }
            }
        };
        let Ok(next) = next else {
            return Err(AttachedEnd::Outcome(lost));
        };
        self.incoming.switch_to(next.incoming);
        self.outgoing.switch_to(next.outgoing).await;
        for event in pending_events {
            self.send_event(event).await;
        }
        Ok(())
    }

    async fn send_event(&self, event: Event) {
        match event {
            Event::Signal(number) => self.outgoing.signal(number).await,
            Event::Resized => {
                let size = terminal::size();
                self.outgoing.resize(size.rows, size.cols).await;
            }
        }
    }
}
