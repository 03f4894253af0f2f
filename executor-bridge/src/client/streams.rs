//! Standard streams of an attached command on this side: this process's own, or pipes of `sync`. Each is read or written on a thread of
//! its own, because a terminal or a pipe may block for ever. `attached` uses them.

use std::os::fd::AsFd;
use std::thread;

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::BorrowedFd;
use rustix::io::Errno;
use rustix::stdio;
use tokio::sync::{mpsc, oneshot};

use crate::client::connection::Outgoing;

/// Bytes per read of standard input, at most.
const STDIN_READ_SIZE: usize = 128 * 1024;

/// A file descriptor that a thread may own.
pub(crate) type Descriptor = Box<dyn AsFd + Send>;

/// The descriptors that the command's input comes from and its output goes to.
pub(crate) struct Streams {
    pub stdin: Descriptor,
    pub stdout: Descriptor,
    pub stderr: Descriptor,
}

impl Streams {
    /// Returns the standard streams of this process.
    pub(crate) fn standard() -> Self {
        Self {
            stdin: Box::new(stdio::stdin()),
            stdout: Box::new(stdio::stdout()),
            stderr: Box::new(stdio::stderr()),
        }
    }
}

/// Sends everything that can be read from `stdin` to the bridge, then the end of input. Returns early once the command reads no more.
pub(super) async fn forward_stdin(stdin: Descriptor, outgoing: Outgoing) {
    let (queue, mut chunks) = mpsc::channel(2);
    // Reading a terminal or a pipe may block for ever.
    thread::spawn(move || {
        let mut buffer = vec![0; STDIN_READ_SIZE];
        loop {
            match rustix::io::read(stdin.as_fd(), &mut buffer[..]) {
                Ok(0) => return,
                Ok(count) => {
                    if queue.blocking_send(Bytes::copy_from_slice(&buffer[..count])).is_err() {
                        return;
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => wait_until_ready(stdin.as_fd(), PollFlags::IN),
                // Treated as the end of input: nothing more can be read.
                Err(_) => return,
            }
        }
    });
    while let Some(data) = chunks.recv().await {
        if !outgoing.stdin(data).await {
            return;
        }
    }
    outgoing.stdin_eof().await;
}

/// Waits until the descriptor is ready. Needed where another process made it non-blocking.
fn wait_until_ready(descriptor: BorrowedFd<'_>, flags: PollFlags) {
    let _ = poll(&mut [PollFd::new(&descriptor, flags)], None);
}

/// Names an output stream of the command.
#[derive(Debug, Clone, Copy)]
pub(super) enum OutputStream {
    Stdout,
    Stderr,
}

/// Writes output on a thread of its own, so that a blocked terminal does not delay signals.
pub(super) struct Printer {
    /// Output to write; closed once writing has failed.
    pub(super) queue: mpsc::Sender<(OutputStream, Bytes)>,
    end: oneshot::Receiver<Result<(), Errno>>,
}

impl Printer {
    /// Starts the thread with the first output: many commands have none. Call it in a runtime.
    pub(super) fn start(stdout: Descriptor, stderr: Descriptor) -> Self {
        let (queue, mut outputs) = mpsc::channel::<(OutputStream, Bytes)>(1);
        let (report, end) = oneshot::channel();
        tokio::spawn(async move {
            let mut next = outputs.recv().await;
            if next.is_none() {
                let _ = report.send(Ok(()));
                return;
            }
            let write = move || {
                while let Some((stream, data)) = next {
                    let descriptor = match stream {
                        OutputStream::Stdout => stdout.as_fd(),
                        OutputStream::Stderr => stderr.as_fd(),
                    };
                    write_all(descriptor, &data)?;
                    next = outputs.blocking_recv();
                }
                Ok(())
            };
            thread::spawn(move || report.send(write()));
        });
        Self { queue, end }
    }

    /// Waits until all output is written, possibly for ever; `Err` if writing failed.
    pub(super) async fn finish(self) -> Result<(), Errno> {
        drop(self.queue);
        self.end.await.unwrap_or(Err(Errno::IO))
    }
}

/// Writes all data, also to a non-blocking descriptor.
fn write_all(descriptor: BorrowedFd<'_>, mut data: &[u8]) -> Result<(), Errno> {
    while !data.is_empty() {
        match rustix::io::write(descriptor, data) {
            Ok(count) => data = &data[count..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait_until_ready(descriptor, PollFlags::OUT),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
