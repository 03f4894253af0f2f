//! Frames on a client's connection. Keeps to the stdin window; turns the end of a connection into an outcome.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{Mutex, Semaphore};

use crate::error::{Failure, Kind};
use crate::protocol::STDIN_WINDOW;
use crate::protocol::frame::{Frame, MAX_LENGTH};
use crate::protocol::result::Outcome;

/// Stdin per frame.
const CHUNK: usize = 128 * 1024;

pub(super) fn split(stream: UnixStream) -> (Incoming, Outgoing) {
    let (reading, writing) = stream.into_split();
    let window = Arc::new(Semaphore::new(STDIN_WINDOW));
    let incoming = Incoming {
        reading,
        read: BytesMut::new(),
        window: window.clone(),
        acknowledged: 0,
        started: false,
        heard: false,
    };
    let outgoing = Outgoing {
        writing: Arc::new(Mutex::new(writing)),
        window,
    };
    (incoming, outgoing)
}

#[derive(Debug)]
pub(crate) struct Incoming {
    reading: OwnedReadHalf,
    read: BytesMut,
    window: Arc<Semaphore>,
    acknowledged: u64,
    started: bool,
    /// Anything at all.
    heard: bool,
}

/// What a bridge says that its client has to deal with.
#[derive(Debug)]
pub(crate) enum Message {
    Started,
    Stdout(Bytes),
    Stderr(Bytes),
    Result(Outcome),
    /// The bridge died with what was sent unread: if that was the request alone, nothing ran.
    Unread,
}

impl Incoming {
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
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset && !self.heard => return Message::Unread,
                Err(error) => return self.broken(&error.to_string()),
            }
        }
    }

    fn message(&mut self, frame: Frame) -> Option<Message> {
        match frame {
            Frame::Started(_) => {
                self.started = true;
                Some(Message::Started)
            }
            Frame::Stdout(data) => Some(Message::Stdout(data)),
            Frame::Stderr(data) => Some(Message::Stderr(data)),
            Frame::StdinAck { offset, closed } => {
                let newly = offset.saturating_sub(self.acknowledged);
                self.acknowledged = self.acknowledged.max(offset);
                if closed {
                    // Whoever waits to write more learns that nobody wants it.
                    self.window.close();
                } else {
                    self.window.add_permits(newly.min(STDIN_WINDOW as u64) as usize);
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

    /// The bridge is gone without a result.
    fn broken(&self, why: &str) -> Message {
        let fate = match self.started {
            true => "the command may still run in the pod",
            false => "the command may have started",
        };
        Message::Result(Outcome::lost(
            Kind::BridgeLost,
            format!("the bridge was lost ({why}); {fate}"),
        ))
    }
}

/// Clones write to the same connection.
#[derive(Debug, Clone)]
pub(crate) struct Outgoing {
    writing: Arc<Mutex<OwnedWriteHalf>>,
    window: Arc<Semaphore>,
}

impl Outgoing {
    pub(super) async fn request(&mut self, json: Vec<u8>) -> Result<(), Failure> {
        if json.len() >= MAX_LENGTH {
            return Err(Failure::usage(format!(
                "arguments and environment are longer than the {MAX_LENGTH} bytes that a request may have"
            )));
        }
        self.send(Frame::Request(json.into()))
            .await
            .map_err(|error| Failure::new(Kind::Bridge, format!("the bridge takes no request: {error}")))
    }

    async fn send(&self, frame: Frame) -> io::Result<()> {
        let (header, payload) = frame.encode();
        let mut writing = self.writing.lock().await;
        writing.write_all(&header).await?;
        writing.write_all(&payload).await
    }

    /// False once nobody wants stdin any more. Waits while the window is full.
    pub(crate) async fn stdin(&self, mut data: Bytes) -> bool {
        while !data.is_empty() {
            let chunk = data.split_to(data.len().min(CHUNK));
            let Ok(room) = self.window.acquire_many(chunk.len() as u32).await else {
                return false;
            };
            room.forget();
            if self.send(Frame::Stdin(chunk)).await.is_err() {
                return false;
            }
        }
        true
    }

    pub(crate) async fn stdin_eof(&self) {
        // A bridge that has gone is noticed by the reading side.
        let _ = self.send(Frame::StdinEof).await;
    }

    pub(crate) async fn signal(&self, number: u8) {
        let _ = self.send(Frame::Signal(number)).await;
    }

    pub(crate) async fn resize(&self, rows: u16, cols: u16) {
        let _ = self.send(Frame::Resize { rows, cols }).await;
    }
}
