//! The streams of one `pods/exec`: stdin and stdout as a pipe whose directions are carried by a task each and never wait for
//! one another, stderr and the final status kept for messages. kube's `AttachedProcess` is one loop and deadlocks when both
//! sides write.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf};
use tokio::task::AbortHandle;
use tokio_tungstenite::tungstenite::Message;

use crate::pod::ExecSocket;

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
/// v5: the channel named by the next byte has ended.
const CLOSE: u8 = 255;

/// Bytes per direction between the socket and whoever uses the pipe.
const BUFFER: usize = 512 << 10;
/// Of one message.
const CHUNK: usize = 64 << 10;
/// Of stderr that is kept.
const NOTES: usize = 2 << 10;

/// What the command and the server said beside the data.
#[derive(Debug, Clone, Default)]
pub(super) struct Notes(Arc<Mutex<String>>);

impl Notes {
    fn add(&self, text: &[u8]) {
        let mut notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if notes.len() < NOTES {
            notes.push_str(&String::from_utf8_lossy(text));
        }
    }

    /// On one line.
    pub(super) fn text(&self) -> String {
        let notes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        notes.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// A running command.
pub(super) struct ExecStream {
    pub(super) pipe: DuplexStream,
    pub(super) notes: Notes,
    /// Reading and writing.
    pub(super) tasks: [AbortHandle; 2],
}

type Socket = tokio_tungstenite::WebSocketStream<hyper_util::rt::TokioIo<hyper::upgrade::Upgraded>>;

pub(super) fn open(socket: ExecSocket) -> ExecStream {
    let ExecSocket { stream, half_close } = socket;
    let (sink, stream) = stream.split();
    let (pipe, ours) = tokio::io::duplex(BUFFER);
    let (from_user, to_user) = tokio::io::split(ours);
    let notes = Notes::default();
    let reading = tokio::spawn(read(stream, to_user, notes.clone())).abort_handle();
    let writing = tokio::spawn(write(sink, from_user, half_close)).abort_handle();
    ExecStream {
        pipe,
        notes,
        tasks: [reading, writing],
    }
}

/// Until the socket ends: stdout to the pipe, the rest to the notes. A user that does not read stops this direction only.
async fn read(mut socket: SplitStream<Socket>, mut pipe: WriteHalf<DuplexStream>, notes: Notes) {
    loop {
        match socket.next().await {
            Some(Ok(Message::Binary(frame))) => match frame.first() {
                Some(&STDOUT) if pipe.write_all(&frame[1..]).await.is_err() => return,
                Some(&STDERR) => notes.add(&frame[1..]),
                Some(&STATUS) => notes.add(failure_of(&frame[1..]).as_bytes()),
                _ => {}
            },
            Some(Ok(Message::Close(_))) | None => break,
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                notes.add(format!(" {error}").as_bytes());
                break;
            }
        }
    }
    // The user may have gone first.
    let _ = pipe.shutdown().await;
}

/// The message of a status that is none of success.
fn failure_of(status: &[u8]) -> String {
    let status: serde_json::Value = serde_json::from_slice(status).unwrap_or_default();
    match status["status"].as_str() {
        Some("Success") => String::new(),
        _ => format!(" {}", status["message"].as_str().unwrap_or("the command ended")),
    }
}

async fn write(mut socket: SplitSink<Socket, Message>, mut pipe: ReadHalf<DuplexStream>, half_close: bool) {
    loop {
        let mut frame = Vec::with_capacity(CHUNK + 1);
        frame.push(STDIN);
        match pipe.read_buf(&mut frame).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
        if socket.send(Message::binary(frame)).await.is_err() {
            return;
        }
    }
    // An older server learns of the end by the end of the connection only; `inject` refuses those.
    if half_close {
        let _ = socket.send(Message::binary(vec![CLOSE, STDIN])).await;
    }
}
