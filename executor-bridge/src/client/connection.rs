//! A client's connection to one bridge: frames in both directions. It keeps to the window of standard input, keeps what the next bridge
//! needs to resume the operation, and turns the loss of the connection into an outcome. `conversation` opens it; `attached` and `cp` use
//! it.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, PoisonError};

use bytes::{Buf as _, Bytes, BytesMut};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, Semaphore};

use crate::error::{Failure, Kind};
use crate::protocol::STDIN_WINDOW;
use crate::protocol::frame::{Frame, MAX_LENGTH};
use crate::protocol::json_fault::json_fault;
use crate::protocol::request::Resume;
use crate::protocol::result::Outcome;
use crate::report;

/// File descriptors that one request of this client carries, at most.
const DESCRIPTORS_MAX: usize = 1;
/// Bytes of standard input in one frame, at most.
const STDIN_FRAME_MAX: usize = 128 * 1024;

/// Splits a connection into its two directions.
pub(super) fn split(stream: UnixStream) -> (Incoming, Outgoing) {
    let (reader, writer) = stream.into_split();
    let window = Arc::new(Semaphore::new(STDIN_WINDOW));
    let unacknowledged = Arc::default();
    let incoming = Incoming {
        reader,
        buffer: BytesMut::new(),
        window: window.clone(),
        unacknowledged: Arc::clone(&unacknowledged),
        progress: Resume::default(),
        received_anything: false,
    };
    let outgoing = Outgoing {
        writer: Arc::new(Mutex::new(Writer {
            half: writer,
            stdin_ended: false,
        })),
        window,
        unacknowledged,
    };
    (incoming, outgoing)
}

/// Standard input that was sent and that the agent has not acknowledged yet.
type Unacknowledged = Arc<std::sync::Mutex<VecDeque<Bytes>>>;

/// The receiving direction.
#[derive(Debug)]
pub(crate) struct Incoming {
    reader: OwnedReadHalf,
    /// Bytes received and not decoded yet.
    buffer: BytesMut,
    /// Bytes of standard input that may still be sent; closed once the command reads no more.
    window: Arc<Semaphore>,
    unacknowledged: Unacknowledged,
    progress: Resume,
    /// This bridge has sent at least one byte.
    received_anything: bool,
}

/// A message from the bridge that the client acts on.
#[derive(Debug)]
pub(crate) enum Message {
    /// The command has started.
    Started,
    Stdout(Bytes),
    Stderr(Bytes),
    Result(Outcome),
    /// The bridge died without a result; the outcome counts unless another bridge continues the operation.
    Lost(Outcome),
}

impl Incoming {
    /// Returns what another bridge needs to resume the operation; `None` if no agent can have received anything.
    pub(crate) fn progress(&self) -> Option<Resume> {
        (!self.progress.instance.is_empty()).then(|| self.progress.clone())
    }

    /// Returns how many bytes of input the agent has acknowledged.
    pub(crate) fn acknowledged_bytes(&self) -> u64 {
        self.progress.stdin
    }

    /// Continues with another bridge; its request carried the progress.
    pub(crate) fn switch_to(&mut self, other: Incoming) {
        self.reader = other.reader;
        self.buffer = other.buffer;
        self.received_anything = false;
    }

    /// Waits for the next message; nothing follows `Result`. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Message {
        loop {
            match Frame::decode(&mut self.buffer) {
                Ok(Some(frame)) => {
                    if let Some(message) = self.message(frame) {
                        return message;
                    }
                    continue;
                }
                Ok(None) => {}
                Err(error) => return self.lost(&format!("it broke the protocol: {error}")),
            }
            match self.reader.read_buf(&mut self.buffer).await {
                Ok(0) => return self.lost("it closed the connection"),
                Ok(_) => self.received_anything = true,
                // A Unix socket reports a reset only if the peer never accepted the connection, or closed it before it had read
                // everything.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset && !self.received_anything => {
                    return match self.progress() {
                        // An earlier bridge had read the request.
                        Some(_) => self.lost("it ended before it read the request"),
                        None => Message::Lost(Outcome::Unreachable(Failure::new(
                            Kind::Bridge,
                            "the bridge ended before it read the request; try again",
                        ))),
                    };
                }
                Err(error) => return self.lost(&error.to_string()),
            }
        }
    }

    /// Applies a frame; returns the message for the client, if the frame holds one.
    fn message(&mut self, frame: Frame) -> Option<Message> {
        match frame {
            Frame::Agent(json) => match serde_json::from_slice(&json) {
                Ok(Resume { instance, .. }) => {
                    self.progress.instance = instance;
                    None
                }
                Err(error) => Some(self.lost(&format!("its agent frame cannot be read: {}", json_fault(&error)))),
            },
            Frame::Started(_) => {
                self.progress.started = true;
                Some(Message::Started)
            }
            Frame::Notice(text) => {
                report::say(&String::from_utf8_lossy(&text));
                None
            }
            Frame::Stdout(data) => {
                self.progress.stdout += data.len() as u64;
                Some(Message::Stdout(data))
            }
            Frame::Stderr(data) => {
                self.progress.stderr += data.len() as u64;
                Some(Message::Stderr(data))
            }
            Frame::StdinAck { offset, closed } => {
                self.acknowledge(offset);
                if closed {
                    // A task that waits for the window learns that the command reads no more.
                    self.window.close();
                }
                None
            }
            Frame::Result(json) => Some(match serde_json::from_slice(&json) {
                Ok(outcome) => Message::Result(outcome),
                Err(error) => self.lost(&format!("its result cannot be read: {}", json_fault(&error))),
            }),
            Frame::Request(_) | Frame::Stdin(_) | Frame::StdinEof | Frame::Signal(_) | Frame::Resize { .. } => {
                Some(self.lost("it broke the protocol"))
            }
        }
    }

    /// Removes input up to this offset from the unacknowledged input, and opens the window by as much.
    fn acknowledge(&mut self, offset: u64) {
        let mut newly = offset.saturating_sub(self.progress.stdin) as usize;
        self.progress.stdin += newly as u64;
        self.window.add_permits(newly.min(STDIN_WINDOW));
        let mut chunks = self.unacknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(first) = chunks.front_mut() {
            if first.len() > newly {
                first.advance(newly);
                return;
            }
            newly -= first.len();
            chunks.pop_front();
        }
    }

    /// Returns the message for a bridge that is gone without a result.
    fn lost(&self, why: &str) -> Message {
        let consequence = match (self.progress.started, self.progress.instance.is_empty()) {
            (true, _) => "the command may still run in the pod",
            (false, false) => "the command may have started",
            (false, true) => "the operation may have completed",
        };
        Message::Lost(Outcome::lost(
            Kind::BridgeLost,
            format!("the bridge was lost ({why}); {consequence}"),
        ))
    }
}

/// The sending direction. Clones write to the same connection.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    writer: Arc<Mutex<Writer>>,
    window: Arc<Semaphore>,
    unacknowledged: Unacknowledged,
}

/// The socket's write half, and what the next bridge must get again.
#[derive(Debug)]
struct Writer {
    half: OwnedWriteHalf,
    /// The end of standard input was sent.
    stdin_ended: bool,
}

impl Writer {
    /// Sends a request; the descriptors travel with the first bytes of its header.
    async fn request(&mut self, frame: Frame, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let (header, payload) = frame.encode();
        let stream: &UnixStream = self.half.as_ref();
        let sent = if descriptors.is_empty() {
            0
        } else {
            stream
                .async_io(Interest::WRITABLE, || {
                    send_with_descriptors(stream, &header, descriptors)
                })
                .await?
        };
        self.half.write_all(&header[sent..]).await?;
        self.half.write_all(&payload).await
    }

    async fn send(&mut self, frame: Frame) -> io::Result<()> {
        let (header, payload) = frame.encode();
        self.half.write_all(&header).await?;
        self.half.write_all(&payload).await
    }
}

/// Sends data and file descriptors in one message (SCM_RIGHTS); returns how many bytes of the data were sent.
fn send_with_descriptors(stream: &UnixStream, data: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many file descriptors for one request"));
    }
    Ok(sendmsg(
        stream,
        &[IoSlice::new(data)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?)
}

impl Outgoing {
    /// Continues with another bridge, and sends it the unacknowledged input again.
    pub(crate) async fn switch_to(&self, other: Outgoing) {
        let mut writer = self.writer.lock().await;
        let chunks: Vec<Bytes> = {
            let chunks = self.unacknowledged.lock().unwrap_or_else(PoisonError::into_inner);
            chunks.iter().cloned().collect()
        };
        std::mem::swap(&mut writer.half, &mut other.writer.lock().await.half);
        for chunk in chunks {
            // A failure is ignored: if this bridge is gone too, the receiving direction notices it.
            let _ = writer.send(Frame::Stdin(chunk)).await;
        }
        if writer.stdin_ended {
            let _ = writer.send(Frame::StdinEof).await;
        }
    }

    /// Sends the request; the bridge must not have received anything before. `Err` if the request is too long or the bridge is gone.
    pub(super) async fn request(&mut self, json: Vec<u8>, descriptors: &[BorrowedFd<'_>]) -> Result<(), Failure> {
        if json.len() >= MAX_LENGTH {
            return Err(Failure::usage(format!(
                "arguments and environment are too long: a request may have at most {MAX_LENGTH} bytes"
            )));
        }
        let mut writer = self.writer.lock().await;
        writer
            .request(Frame::Request(json.into()), descriptors)
            .await
            .map_err(|error| {
                Failure::new(
                    Kind::Bridge,
                    format!("the request cannot be sent to the bridge: {error}"),
                )
            })
    }

    async fn send(&self, frame: Frame) -> io::Result<()> {
        self.writer.lock().await.send(frame).await
    }

    /// Sends standard input; waits while the window is full. Returns false once the command reads no more.
    pub(crate) async fn stdin(&self, mut data: Bytes) -> bool {
        while !data.is_empty() {
            let chunk = data.split_to(data.len().min(STDIN_FRAME_MAX));
            let Ok(permit) = self.window.acquire_many(chunk.len() as u32).await else {
                return false;
            };
            permit.forget();
            let mut writer = self.writer.lock().await;
            {
                let mut chunks = self.unacknowledged.lock().unwrap_or_else(PoisonError::into_inner);
                chunks.push_back(chunk.clone());
            }
            // A failure is ignored: the receiving direction notices a lost bridge, and the next bridge gets the chunk again.
            let _ = writer.send(Frame::Stdin(chunk)).await;
        }
        true
    }

    /// Sends the end of standard input.
    pub(crate) async fn stdin_eof(&self) {
        let mut writer = self.writer.lock().await;
        writer.stdin_ended = true;
        let _ = writer.send(Frame::StdinEof).await;
    }

    /// Sends a signal for the command.
    pub(crate) async fn signal(&self, number: u8) {
        let _ = self.send(Frame::Signal(number)).await;
    }

    /// Sends the new size of the terminal.
    pub(crate) async fn resize(&self, rows: u16, cols: u16) {
        let _ = self.send(Frame::Resize { rows, cols }).await;
    }
}
