//! Frames on a client's connection. Keeps to the stdin window, keeps what another bridge would need to go on, and turns
//! the end of a connection into an outcome.

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
use crate::protocol::request::Resume;
use crate::protocol::result::Outcome;

/// That a request of ours carries.
const DESCRIPTORS: usize = 1;
/// Stdin per frame.
const CHUNK: usize = 128 * 1024;

pub(super) fn split(stream: UnixStream) -> (Incoming, Outgoing) {
    let (reading, writing) = stream.into_split();
    let window = Arc::new(Semaphore::new(STDIN_WINDOW));
    let unacknowledged = Arc::default();
    let incoming = Incoming {
        reading,
        read: BytesMut::new(),
        window: window.clone(),
        unacknowledged: Arc::clone(&unacknowledged),
        progress: Resume::default(),
        heard: false,
    };
    let outgoing = Outgoing {
        writing: Arc::new(Mutex::new(Writing {
            half: writing,
            ended: false,
        })),
        window,
        unacknowledged,
    };
    (incoming, outgoing)
}

/// Stdin that was sent and that the agent may not have.
type Unacknowledged = Arc<std::sync::Mutex<VecDeque<Bytes>>>;

#[derive(Debug)]
pub(crate) struct Incoming {
    reading: OwnedReadHalf,
    read: BytesMut,
    window: Arc<Semaphore>,
    unacknowledged: Unacknowledged,
    progress: Resume,
    /// Anything at all, from this bridge.
    heard: bool,
}

/// What a bridge says that its client has to deal with.
#[derive(Debug)]
pub(crate) enum Message {
    Started,
    Stdout(Bytes),
    Stderr(Bytes),
    Result(Outcome),
    /// The bridge died without a result; this is it if another one does not help.
    Lost(Outcome),
}

impl Incoming {
    /// What another bridge has to know to go on; `None` if no agent can have got anything.
    pub(crate) fn progress(&self) -> Option<Resume> {
        (!self.progress.instance.is_empty()).then(|| self.progress.clone())
    }

    /// Bytes of what goes in that are where they belong.
    pub(crate) fn taken(&self) -> u64 {
        self.progress.stdin
    }

    /// Goes on with another bridge, which has been told the progress.
    pub(crate) fn go_on(&mut self, other: Incoming) {
        self.reading = other.reading;
        self.read = other.read;
        self.heard = false;
    }

    /// The next message; after `Result` there is none. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Message {
        loop {
            match Frame::decode(&mut self.read) {
                Ok(Some(frame)) => {
                    if let Some(message) = self.message(frame) {
                        return message;
                    }
                    continue;
                }
                Ok(None) => {}
                Err(error) => return self.broken(&format!("it broke the protocol: {error}")),
            }
            match self.reading.read_buf(&mut self.read).await {
                Ok(0) => return self.broken("it closed the connection"),
                Ok(_) => self.heard = true,
                // A Unix socket is reset only by an end that was never accepted, or that had not read everything.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset && !self.heard => {
                    return match self.progress() {
                        // But an earlier one had.
                        Some(_) => self.broken("it ended before it took the request"),
                        None => Message::Lost(Outcome::Unreachable(Failure::new(
                            Kind::Bridge,
                            "the bridge ended before it took the request; try again",
                        ))),
                    };
                }
                Err(error) => return self.broken(&error.to_string()),
            }
        }
    }

    fn message(&mut self, frame: Frame) -> Option<Message> {
        match frame {
            Frame::Agent(json) => match serde_json::from_slice(&json) {
                Ok(Resume { instance, .. }) => {
                    self.progress.instance = instance;
                    None
                }
                Err(error) => Some(self.broken(&format!("it names no agent: {error}"))),
            },
            Frame::Started(_) => {
                self.progress.started = true;
                Some(Message::Started)
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
                    // Whoever waits to write more learns that nobody wants it.
                    self.window.close();
                }
                None
            }
            Frame::Result(json) => Some(match serde_json::from_slice(&json) {
                Ok(outcome) => Message::Result(outcome),
                Err(error) => self.broken(&format!("its result cannot be read: {error}")),
            }),
            Frame::Request(_) | Frame::Stdin(_) | Frame::StdinEof | Frame::Signal(_) | Frame::Resize { .. } => {
                Some(self.broken("it broke the protocol"))
            }
        }
    }

    fn acknowledge(&mut self, offset: u64) {
        let mut newly = offset.saturating_sub(self.progress.stdin) as usize;
        self.progress.stdin += newly as u64;
        self.window.add_permits(newly.min(STDIN_WINDOW));
        let mut pieces = self.unacknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(first) = pieces.front_mut() {
            if first.len() > newly {
                first.advance(newly);
                return;
            }
            newly -= first.len();
            pieces.pop_front();
        }
    }

    /// The bridge is gone without a result.
    fn broken(&self, why: &str) -> Message {
        let fate = match (self.progress.started, self.progress.instance.is_empty()) {
            (true, _) => "the command may still run in the pod",
            (false, false) => "the command may have started",
            (false, true) => "what was asked may have been done",
        };
        Message::Lost(Outcome::lost(
            Kind::BridgeLost,
            format!("the bridge was lost ({why}); {fate}"),
        ))
    }
}

/// Clones write to the same connection.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    writing: Arc<Mutex<Writing>>,
    window: Arc<Semaphore>,
    unacknowledged: Unacknowledged,
}

#[derive(Debug)]
struct Writing {
    half: OwnedWriteHalf,
    /// Stdin's end was sent.
    ended: bool,
}

impl Writing {
    /// The descriptors ride on the first byte.
    async fn request(&mut self, frame: Frame, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let (header, payload) = frame.encode();
        let stream: &UnixStream = self.half.as_ref();
        let sent = match descriptors.is_empty() {
            true => 0,
            false => {
                stream
                    .async_io(Interest::WRITABLE, || pass(stream, &header, descriptors))
                    .await?
            }
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

fn pass(stream: &UnixStream, data: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many descriptors"));
    }
    Ok(sendmsg(
        stream,
        &[IoSlice::new(data)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?)
}

impl Outgoing {
    /// Goes on with another bridge, which gets again what was not acknowledged.
    pub(crate) async fn go_on(&self, other: Outgoing) {
        let mut writing = self.writing.lock().await;
        let pieces: Vec<Bytes> = {
            let pieces = self.unacknowledged.lock().unwrap_or_else(PoisonError::into_inner);
            pieces.iter().cloned().collect()
        };
        std::mem::swap(&mut writing.half, &mut other.writing.lock().await.half);
        for piece in pieces {
            // A bridge that has gone as well is noticed by the reading side.
            let _ = writing.send(Frame::Stdin(piece)).await;
        }
        if writing.ended {
            let _ = writing.send(Frame::StdinEof).await;
        }
    }

    pub(super) async fn request(&mut self, json: Vec<u8>, descriptors: &[BorrowedFd<'_>]) -> Result<(), Failure> {
        if json.len() >= MAX_LENGTH {
            return Err(Failure::usage(format!(
                "arguments and environment are longer than the {MAX_LENGTH} bytes that a request may have"
            )));
        }
        let mut writing = self.writing.lock().await;
        writing
            .request(Frame::Request(json.into()), descriptors)
            .await
            .map_err(|error| Failure::new(Kind::Bridge, format!("the bridge takes no request: {error}")))
    }

    async fn send(&self, frame: Frame) -> io::Result<()> {
        self.writing.lock().await.send(frame).await
    }

    /// False once nobody wants stdin any more. Waits while the window is full.
    pub(crate) async fn stdin(&self, mut data: Bytes) -> bool {
        while !data.is_empty() {
            let chunk = data.split_to(data.len().min(CHUNK));
            let Ok(room) = self.window.acquire_many(chunk.len() as u32).await else {
                return false;
            };
            room.forget();
            let mut writing = self.writing.lock().await;
            {
                let mut pieces = self.unacknowledged.lock().unwrap_or_else(PoisonError::into_inner);
                pieces.push_back(chunk.clone());
            }
            // It is kept: the reading side notices a bridge that has gone, and the next one gets it.
            let _ = writing.send(Frame::Stdin(chunk)).await;
        }
        true
    }

    pub(crate) async fn stdin_eof(&self) {
        let mut writing = self.writing.lock().await;
        writing.ended = true;
        let _ = writing.send(Frame::StdinEof).await;
    }

    pub(crate) async fn signal(&self, number: u8) {
        let _ = self.send(Frame::Signal(number)).await;
    }

    pub(crate) async fn resize(&self, rows: u16, cols: u16) {
        let _ = self.send(Frame::Resize { rows, cols }).await;
    }
}
