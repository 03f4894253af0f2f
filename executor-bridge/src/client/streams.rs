//! A command's streams on this side, our own standard ones or others, each on a thread of its own, as they may block for ever. `attend`
//! uses them.

use std::os::fd::AsFd;
use std::thread;

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use rustix::stdio;
use tokio::sync::mpsc;

use crate::client::connection::Outgoing;

const STDIN_CHUNK: usize = 128 * 1024;

/// Any descriptor that a thread may own.
pub(crate) type Descriptor = Box<dyn AsFd + Send>;

/// What the command reads, and where its output goes.
pub(crate) struct Streams {
    pub stdin: Descriptor,
    pub stdout: Descriptor,
    pub stderr: Descriptor,
}

impl Streams {
    pub(crate) fn standard() -> Self {
        Self {
            stdin: Box::new(stdio::stdin()),
            stdout: Box::new(stdio::stdout()),
            stderr: Box::new(stdio::stderr()),
        }
    }
}

pub(super) async fn forward_stdin(stdin: Descriptor, outgoing: Outgoing) {
    let (queue, mut read) = mpsc::channel(2);
    // A thread of its own: reading a terminal or a pipe may block for ever.
    thread::spawn(move || {
        let mut buffer = vec![0; STDIN_CHUNK];
        loop {
            match rustix::io::read(stdin.as_fd(), &mut buffer[..]) {
                Ok(0) => return,
                Ok(count) => {
                    if queue.blocking_send(Bytes::copy_from_slice(&buffer[..count])).is_err() {
                        return;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => wait(stdin.as_fd(), PollFlags::IN),
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
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// Writes output on a thread of its own: a blocked terminal must not block signals.
pub(super) struct Printer {
    pub(super) queue: mpsc::Sender<(Stream, Bytes)>,
    thread: thread::JoinHandle<Result<(), Errno>>,
}

impl Printer {
    pub(super) fn start(stdout: Descriptor, stderr: Descriptor) -> Self {
        let (queue, mut outputs) = mpsc::channel::<(Stream, Bytes)>(1);
        let thread = thread::spawn(move || {
            while let Some((stream, data)) = outputs.blocking_recv() {
                let descriptor = match stream {
                    Stream::Stdout => stdout.as_fd(),
                    Stream::Stderr => stderr.as_fd(),
                };
                write_all(descriptor, &data)?;
            }
            Ok(())
        });
        Self { queue, thread }
    }

    /// Waits until all is written, which may be for ever; why it was not.
    pub(super) fn finish(self) -> Result<(), Errno> {
        drop(self.queue);
        self.thread.join().unwrap_or(Err(Errno::IO))
    }
}

fn write_all(descriptor: BorrowedFd<'_>, mut data: &[u8]) -> Result<(), Errno> {
    while !data.is_empty() {
        match rustix::io::write(descriptor, data) {
            Ok(count) => data = &data[count..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait(descriptor, PollFlags::OUT),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
