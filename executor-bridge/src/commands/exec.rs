//! `podbridge exec`: a command in a pod with our own standard streams, signals and terminal. Ends with its exit code.

use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use rustix::stdio;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::{conclude, runtime};
use crate::cli::{ExecOptions, TargetOptions};
use crate::client::{self, Incoming, Message, Outgoing};
use crate::config::{self, Process};
use crate::daemon;
use crate::error::{Failure, Kind};
use crate::exit;
use crate::protocol::octets::Octets;
use crate::protocol::request::{Exec, Input, Operation, Request};
use crate::protocol::result::Outcome;
use crate::protocol::target::{Identified, hex};
use crate::random;
use crate::terminal;

const STDIN_CHUNK: usize = 64 * 1024;
/// So many interrupts that the command ignores, and we leave; the bridge then ends its tree.
const PATIENCE: usize = 3;
/// Bridges that die under one command, until we give up.
const BRIDGES: usize = 5;

pub(super) fn run(target: TargetOptions, options: daemon::Options, command: ExecOptions) -> Result<u8, Failure> {
    let container = target.container.clone();
    let identified = config::target(target, &command.pod, &Process)?;
    let takes_stdin = command.stdin || command.tty || !terminal::stdin_is_terminal();
    let tty = command.tty;
    let request = Request {
        container,
        operation: Operation::Exec(Box::new(exec(command, takes_stdin)?)),
    };
    let runtime = runtime()?;
    let conversing = Conversing {
        identified,
        options,
        request,
        takes_stdin,
        tty,
    };
    let ended = runtime.block_on(conversing.run());
    // A thread that reads our stdin may wait for ever.
    runtime.shutdown_background();
    match ended? {
        Ended::Outcome(outcome) => Ok(conclude(&outcome)),
        Ended::Left(code) => Ok(code),
    }
}

fn exec(command: ExecOptions, takes_stdin: bool) -> Result<Exec, Failure> {
    let octets = |text: std::ffi::OsString| Octets(text.into_vec());
    let env = command.env.into_iter().map(|pair| {
        let bytes = pair.as_bytes();
        match bytes.iter().position(|byte| *byte == b'=') {
            Some(at) if at > 0 => Ok((Octets(bytes[..at].to_vec()), Octets(bytes[at + 1..].to_vec()))),
            _ => Err(Failure::usage("--env takes NAME=VALUE")),
        }
    });
    let timeout = command.timeout.map(Duration::try_from_secs_f64).transpose();
    let timeout = timeout.map_err(|error| Failure::usage(format!("--timeout: {error}")))?;
    Ok(Exec {
        exec_id: Some(hex(&random::bytes::<16>())),
        argv: Some(command.command.into_iter().map(octets).collect()),
        env: env.collect::<Result<_, _>>()?,
        cwd: command.cwd.map(octets),
        user: command.user,
        pty: command.tty.then(terminal::size),
        timeout_ms: timeout.map(|timeout| (timeout.as_millis() as u64).max(1)),
        stdin: match takes_stdin {
            true => Input::Stream,
            false => Input::None,
        },
        ..Exec::default()
    })
}

enum Ended {
    Outcome(Outcome),
    /// Without waiting for the command.
    Left(u8),
}

struct Conversing {
    identified: Identified,
    options: daemon::Options,
    request: Request,
    takes_stdin: bool,
    tty: bool,
}

impl Conversing {
    async fn run(mut self) -> Result<Ended, Failure> {
        let (takes_stdin, tty) = (self.takes_stdin, self.tty);
        let client::Conversation { mut incoming, outgoing } =
            client::begin(&self.identified, self.options, &self.request).await?;
        let mut signals = Signals::watch(tty)?;
        let _raw = match tty {
            true => terminal::Raw::enter()
                .map_err(|error| Failure::new(Kind::Internal, format!("the terminal cannot be made raw: {error}")))?,
            false => None,
        };
        let printer = Printer::start();
        let (mut started, mut interrupts, mut bridges) = (false, 0, 0);
        let mut unprinted = None;
        let ended = loop {
            tokio::select! {
                room = printer.queue.reserve(), if unprinted.is_some() => match (room, unprinted.take()) {
                    (Ok(room), Some(output)) => room.send(output),
                    // Nobody reads our output: leaving ends the command.
                    _ => break Ended::Left(exit::BROKEN_PIPE),
                },
                message = incoming.next(), if unprinted.is_none() => match message {
                    Message::Started => {
                        started = true;
                        // Not earlier: until then the request is all that was sent, and if it was not read, nothing ran.
                        if takes_stdin {
                            tokio::spawn(forward_stdin(outgoing.clone()));
                        }
                    }
                    Message::Lost(outcome) => {
                        bridges += 1;
                        if bridges == BRIDGES || self.go_on(&mut incoming, &outgoing).await.is_err() {
                            break Ended::Outcome(outcome);
                        }
                    }
                    Message::Stdout(data) => unprinted = Some((Stream::Stdout, data)),
                    Message::Stderr(data) => unprinted = Some((Stream::Stderr, data)),
                    Message::Result(outcome) => break Ended::Outcome(outcome),
                },
                event = signals.next() => match event {
                    Event::Resized => {
                        let size = terminal::size();
                        outgoing.resize(size.rows, size.cols).await;
                    }
                    Event::Signal(number) => {
                        interrupts += 1;
                        if !started || interrupts > PATIENCE {
                            break Ended::Left(128 + number);
                        }
                        outgoing.signal(number).await;
                    }
                },
            }
        };
        match (printer.finish(), ended) {
            (true, ended) => Ok(ended),
            (false, _) => Ok(Ended::Left(exit::BROKEN_PIPE)),
        }
    }

    /// Goes on with another bridge.
    async fn go_on(&mut self, incoming: &mut Incoming, outgoing: &Outgoing) -> Result<(), Failure> {
        if let Operation::Exec(exec) = &mut self.request.operation {
            exec.resume = incoming.progress();
        }
        let next = client::begin(&self.identified, self.options, &self.request).await?;
        incoming.go_on(next.incoming);
        outgoing.go_on(next.outgoing).await;
        Ok(())
    }
}

async fn forward_stdin(outgoing: Outgoing) {
    let (queue, mut read) = mpsc::channel(2);
    // A thread of its own: reading a terminal or a pipe may block for ever.
    thread::spawn(move || {
        let mut buffer = vec![0; STDIN_CHUNK];
        loop {
            match rustix::io::read(stdio::stdin(), &mut buffer[..]) {
                Ok(0) => return,
                Ok(count) => {
                    if queue.blocking_send(Bytes::copy_from_slice(&buffer[..count])).is_err() {
                        return;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => wait(stdio::stdin(), PollFlags::IN),
                // As good as its end: there is nothing to read.
                Err(_) => return,
            }
        }
    });
    while let Some(data) = read.recv().await {
        if !outgoing.stdin(data).await {
            return;
        }
    }
    outgoing.stdin_eof().await;
}

/// For a descriptor that somebody else made non-blocking.
fn wait(descriptor: BorrowedFd<'_>, flags: PollFlags) {
    let _ = poll(&mut [PollFd::new(&descriptor, flags)], None);
}

#[derive(Debug, Clone, Copy)]
enum Stream {
    Stdout,
    Stderr,
}

/// Writes output on a thread of its own: a blocked terminal must not block signals.
struct Printer {
    queue: mpsc::Sender<(Stream, Bytes)>,
    thread: thread::JoinHandle<bool>,
}

impl Printer {
    fn start() -> Self {
        let (queue, mut outputs) = mpsc::channel::<(Stream, Bytes)>(1);
        let thread = thread::spawn(move || {
            while let Some((stream, data)) = outputs.blocking_recv() {
                let descriptor = match stream {
                    Stream::Stdout => stdio::stdout(),
                    Stream::Stderr => stdio::stderr(),
                };
                if !write_all(descriptor, &data) {
                    return false;
                }
            }
            true
        });
        Self { queue, thread }
    }

    /// Whether all was written.
    fn finish(self) -> bool {
        drop(self.queue);
        self.thread.join().unwrap_or(false)
    }
}

fn write_all(descriptor: BorrowedFd<'_>, mut data: &[u8]) -> bool {
    while !data.is_empty() {
        match rustix::io::write(descriptor, data) {
            Ok(count) => data = &data[count..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(descriptor, PollFlags::OUT),
            Err(_) => return false,
        }
    }
    true
}

enum Event {
    Signal(u8),
    Resized,
}

/// The signals that a command in front of the user would get.
struct Signals {
    received: mpsc::Receiver<Event>,
}

impl Signals {
    fn watch(tty: bool) -> Result<Self, Failure> {
        let (sender, received) = mpsc::channel(8);
        let kinds = [
            SignalKind::interrupt(),
            SignalKind::terminate(),
            SignalKind::hangup(),
            SignalKind::quit(),
        ];
        let resized = tty.then(SignalKind::window_change);
        for kind in kinds.into_iter().chain(resized) {
            let mut stream = signal(kind)
                .map_err(|error| Failure::new(Kind::Internal, format!("signals cannot be watched: {error}")))?;
            let sender = sender.clone();
            tokio::spawn(async move {
                while stream.recv().await.is_some() {
                    let event = match kind == SignalKind::window_change() {
                        true => Event::Resized,
                        false => Event::Signal(u8::try_from(kind.as_raw_value()).unwrap_or(15)),
                    };
                    if sender.send(event).await.is_err() {
                        return;
                    }
                }
            });
        }
        Ok(Self { received })
    }

    async fn next(&mut self) -> Event {
        match self.received.recv().await {
            Some(event) => event,
            // Its watchers live as long as the runtime.
            None => std::future::pending().await,
        }
    }
}
