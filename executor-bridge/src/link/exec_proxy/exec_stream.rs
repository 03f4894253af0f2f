//! The streams of one exec on its WebSocket: channel bytes told apart, standard input ended in good order, what was said on
//! stderr and in the status kept for messages. The two directions are independent.

use std::io::ErrorKind;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::error::Retry;
use crate::pod::{ExecSocket, Socket};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
/// Version 5 of the protocol: the channel named next has ended.
const CLOSE: u8 = 255;
/// Of stderr, for messages: the beginning says why.
const STDERR_KEPT: usize = 2048;
/// Stdin in one message. With its channel and its header (8 bytes) it fills four TLS records: the API server passes each record on by
/// itself, and one of a few bytes costs as much as a full one. Larger messages only need more memory on the way.
pub(super) const CHUNK: usize = 4 * (16 << 10) - 1 - 8;

pub(super) fn split(exec: ExecSocket) -> (Reader, Writer) {
    let (sink, stream) = exec.socket.split();
    let reader = Reader {
        stream,
        stderr: Vec::new(),
        status: None,
        broken: None,
    };
    let writer = Writer {
        sink,
        half_close: exec.half_close,
    };
    (reader, writer)
}

#[derive(Debug)]
pub(super) struct Writer {
    sink: SplitSink<Socket, Message>,
    half_close: bool,
}

impl Writer {
    pub(super) async fn stdin(&mut self, data: &[u8]) -> Result<(), Error> {
        let mut message = BytesMut::with_capacity(data.len() + 1);
        message.put_u8(STDIN);
        message.extend_from_slice(data);
        self.sink.send(Message::Binary(message.freeze())).await
    }

    /// Passes on what can be read at once. False at its end.
    pub(super) async fn stdin_from(&mut self, source: &mut (impl AsyncRead + Unpin)) -> Result<bool, Error> {
        let mut message = BytesMut::with_capacity(1 + CHUNK);
        message.put_u8(STDIN);
        match source.read_buf(&mut message).await {
            Ok(0) | Err(_) => Ok(false),
            Ok(_) => self.sink.send(Message::Binary(message.freeze())).await.map(|()| true),
        }
    }

    /// Whether the other side can be told of the end of stdin alone.
    pub(super) fn can_end_stdin(&self) -> bool {
        self.half_close
    }

    pub(super) async fn end_stdin(&mut self) -> Result<(), Error> {
        if !self.half_close {
            // An older server learns of it by the end of the connection only.
            return Ok(());
        }
        self.sink
            .send(Message::Binary(Bytes::from_static(&[CLOSE, STDIN])))
            .await
    }

    pub(super) async fn close(&mut self) {
        // The other side may have closed first.
        let _ = self.sink.close().await;
    }
}

#[derive(Debug)]
pub(super) struct Reader {
    stream: SplitStream<Socket>,
    stderr: Vec<u8>,
    status: Option<Status>,
    broken: Option<String>,
}

/// How the runtime says that the program ended: a Kubernetes `Status`, as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Status {
    #[serde(default)]
    status: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    details: Option<Details>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Details {
    #[serde(default)]
    causes: Vec<DetailCause>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct DetailCause {
    #[serde(default)]
    reason: String,
    #[serde(default)]
    message: String,
}

impl Status {
    pub(super) fn success(&self) -> bool {
        self.status == "Success"
    }

    /// Of a program that ran and failed.
    pub(super) fn exit_code(&self) -> Option<i32> {
        let causes = &self.details.as_ref()?.causes;
        let cause = causes.iter().find(|cause| cause.reason == "ExitCode")?;
        cause.message.parse().ok()
    }

    /// Whether the runtime found no such program: containerd and CRI-O say it, others end with a shell's code.
    pub(super) fn no_such_program(&self) -> bool {
        // A container that is going says "not found" of itself, too.
        let of_program = self.message.contains("exec: \"");
        let said = ["executable file not found", "no such file or directory"];
        self.exit_code() == Some(127) || of_program && said.iter().any(|text| self.message.contains(text))
    }
}

impl Reader {
    /// The next bytes of stdout; `None` at the end, whose circumstances the other methods tell. Cancel-safe.
    pub(super) async fn stdout(&mut self) -> Option<Bytes> {
        loop {
            let message = match self.stream.next().await {
                Some(Ok(message)) => message,
                Some(Err(error)) => {
                    self.broken = Some(match error {
                        // TLS has a lecture for it.
                        Error::Io(error) if error.kind() == ErrorKind::UnexpectedEof => "it was cut".into(),
                        error => error.to_string(),
                    });
                    return None;
                }
                None => return None,
            };
            let Message::Binary(mut data) = message else {
                // Pings are answered by the socket itself.
                continue;
            };
            if data.is_empty() {
                continue;
            }
            let channel = data.split_to(1)[0];
            match channel {
                STDOUT if !data.is_empty() => return Some(data),
                STDERR => {
                    let room = STDERR_KEPT.saturating_sub(self.stderr.len());
                    self.stderr.extend_from_slice(&data[..data.len().min(room)]);
                }
                STATUS => self.status = serde_json::from_slice(&data).ok(),
                // The end of one stream: the socket's own end says all.
                _ => {}
            }
        }
    }

    pub(super) fn status(&self) -> Option<&Status> {
        self.status.as_ref()
    }

    pub(super) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim().to_owned()
    }

    /// Tells, after the end of the stream, whether the exec was cut off: without a status the program may still run.
    pub(super) fn retry(&self) -> Retry {
        match self.status {
            Some(_) => Retry::Never,
            None => Retry::LinkCut,
        }
    }

    /// How it ended, as a phrase.
    pub(super) fn epitaph(&self) -> String {
        let ending = match (&self.status, &self.broken) {
            (Some(status), _) if status.success() => "the exec ended".to_owned(),
            (Some(status), _) => status.message.clone(),
            (None, Some(broken)) => format!("the connection broke: {broken}"),
            (None, None) => "the connection was closed".to_owned(),
        };
        match self.stderr() {
            stderr if stderr.is_empty() => ending,
            stderr => format!("{ending}: {}", stderr.lines().last().unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(json: &str) -> Status {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn exit_codes_and_absent_programs_are_told() {
        let ended = status(
            r#"{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code",
                "reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#,
        );
        assert_eq!(
            (ended.success(), ended.exit_code(), ended.no_such_program()),
            (false, Some(3), false)
        );
        assert!(status(r#"{"metadata":{},"status":"Success"}"#).success());
        let containerd = status(
            r#"{"status":"Failure","message":"Internal error occurred: OCI runtime exec failed: exec: \"sh\": executable file not found in $PATH: unknown"}"#,
        );
        assert!(containerd.no_such_program());
        let gone = status(r#"{"status":"Failure","message":"failed to load task: no running task found: not found"}"#);
        assert!(!gone.no_such_program());
    }
}
