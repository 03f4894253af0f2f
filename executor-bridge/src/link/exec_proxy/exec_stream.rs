//! The streams of one exec, on its WebSocket (subprotocol v4 or v5.channel.k8s.io) or on the pipes of a kubectl. Splits and joins the channels,
//! ends standard input, and keeps stderr and the status for messages. The two directions are independent. `container_exec`, `inject` and `pipe` use it.

use std::io::{self, ErrorKind};

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use podbridge_proto::words::clean;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe::Sender;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::error::Retry;
use crate::link::exec_proxy::process_streams::{self, ProcessReader, STDERR_MAX};
use crate::pod::{ExecStreams, KubectlEnd, Socket, is_passing_fault};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;
/// Message of v5.channel.k8s.io: the next byte names a channel that has ended.
const CLOSE: u8 = 255;
/// Bytes of stderr that are kept for messages; a program names its error in its first lines.
const STDERR_KEPT: usize = 2048;
/// Longest status. The runtime quotes the command in it.
const STATUS_MAX: usize = 64 << 10;
/// Bytes of stdin in one message. With its channel byte and its WebSocket header (8 bytes) a message fills four TLS records. The API
/// server forwards each record by itself, and a record of a few bytes costs as much as a full one. Larger messages only need more
/// memory in the proxies between.
pub(super) const STDIN_MESSAGE: usize = 4 * (16 << 10) - 1 - 8;

pub(super) fn split(exec: ExecStreams) -> io::Result<(Reader, Writer)> {
    let (source, writer) = match exec {
        ExecStreams::Socket(exec) => {
            let (sink, stream) = exec.socket.split();
            let half_close = exec.half_close;
            (Source::Socket(stream), Writer::Socket { sink, half_close })
        }
        ExecStreams::Process(process) => {
            let (reader, stdin) = process_streams::open(process)?;
            (Source::Process(reader), Writer::Process(Some(stdin)))
        }
    };
    let received = Received::default();
    Ok((Reader { source, received }, writer))
}

#[derive(Debug)]
pub(super) enum Writer {
    Socket {
        sink: SplitSink<Socket, Message>,
        half_close: bool,
    },
    /// `None` after the end of stdin.
    Process(Option<Sender>),
}

impl Writer {
    pub(super) async fn stdin(&mut self, data: &[u8]) -> Result<(), Error> {
        let mut message = BytesMut::with_capacity(data.len() + 1);
        message.put_u8(STDIN);
        message.extend_from_slice(data);
        self.send(message).await
    }

    /// Sends one message: the byte of its channel, which is stdin's, and the data.
    async fn send(&mut self, message: BytesMut) -> Result<(), Error> {
        match self {
            Writer::Socket { sink, .. } => sink.send(Message::Binary(message.freeze())).await,
            Writer::Process(Some(stdin)) => Ok(stdin.write_all(&message[1..]).await?),
            Writer::Process(None) => Err(Error::ConnectionClosed),
        }
    }

    /// Sends the bytes that one read of `source` returns. `false`: `source` has ended.
    pub(super) async fn stdin_from(&mut self, source: &mut (impl AsyncRead + Unpin)) -> Result<bool, Error> {
        let mut message = BytesMut::with_capacity(1 + STDIN_MESSAGE);
        message.put_u8(STDIN);
        match source.read_buf(&mut message).await {
            Ok(0) | Err(_) => Ok(false),
            Ok(_) => self.send(message).await.map(|()| true),
        }
    }

    /// Tells whether the server can end stdin alone, while stdout goes on.
    pub(super) fn can_end_stdin(&self) -> bool {
        match self {
            Writer::Socket { half_close, .. } => *half_close,
            Writer::Process(_) => true,
        }
    }

    pub(super) async fn end_stdin(&mut self) -> Result<(), Error> {
        match self {
            Writer::Socket { sink, half_close: true } => {
                sink.send(Message::Binary(Bytes::from_static(&[CLOSE, STDIN]))).await
            }
            // An older server ends stdin at the end of the connection only.
            Writer::Socket { half_close: false, .. } => Ok(()),
            Writer::Process(stdin) => {
                *stdin = None;
                Ok(())
            }
        }
    }

    pub(super) async fn close(&mut self) {
        match self {
            Writer::Socket { sink, .. } => {
                // The server may have closed first.
                let _ = sink.close().await;
            }
            Writer::Process(stdin) => *stdin = None,
        }
    }
}

#[derive(Debug)]
enum Source {
    Socket(SplitStream<Socket>),
    Process(ProcessReader),
}

#[derive(Debug)]
pub(super) struct Reader {
    source: Source,
    received: Received,
}

/// What has come on the channels but stdout.
#[derive(Debug, Default)]
struct Received {
    stderr: Vec<u8>,
    /// Bytes of stderr that have come, also those that are not kept.
    stderr_length: usize,
    status: Option<ExecStatus>,
    /// Error that ended the stream, as a phrase.
    broken: Option<String>,
}

impl Received {
    /// Takes a message of the WebSocket; returns the bytes of stdout in it. `Err`: the stream cannot be used any more.
    fn take(&mut self, mut message: Bytes) -> Result<Option<Bytes>, ()> {
        if message.is_empty() {
            return Ok(None);
        }
        let channel = message.split_to(1)[0];
        match channel {
            STDOUT if !message.is_empty() => return Ok(Some(message)),
            STDERR => {
                let free = STDERR_KEPT.saturating_sub(self.stderr.len());
                self.stderr.extend_from_slice(&message[..message.len().min(free)]);
                self.stderr_length = self.stderr_length.saturating_add(message.len());
                if self.stderr_length > STDERR_MAX {
                    self.broken = Some(format!("more than {STDERR_MAX} bytes came on standard error"));
                    return Err(());
                }
            }
            STATUS if message.len() <= STATUS_MAX => self.status = serde_json::from_slice(&message).ok(),
            // The end of one channel; the end of the socket is what counts.
            _ => {}
        }
        Ok(None)
    }

    /// Returns how the exec ended, as a phrase. The container and its runtime may have a say in it.
    fn end_reason(&self, stderr: &str) -> String {
        let reason = match (&self.status, &self.broken) {
            (Some(status), _) if status.success() => "the exec ended".to_owned(),
            (Some(status), _) => status.message.clone(),
            (None, Some(broken)) => format!("the connection broke: {broken}"),
            (None, None) => "the connection was closed".to_owned(),
        };
        clean(&match stderr {
            "" => reason,
            stderr => format!("{reason}: {}", stderr.lines().last().unwrap_or_default()),
        })
    }
}

/// Checks any messages for `fuzzing`, each preceded by its length in one byte: little is kept of them, and nothing that a terminal obeys.
#[cfg(any(test, fuzzing))]
pub(crate) fn check_channels(mut data: &[u8]) {
    let mut received = Received::default();
    while let Some((length, rest)) = data.split_first() {
        let (message, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        data = rest;
        if received.take(Bytes::copy_from_slice(message)).is_err() {
            break;
        }
    }
    assert!(received.stderr.len() <= STDERR_KEPT);
    let stderr = String::from_utf8_lossy(&received.stderr);
    let reason = received.end_reason(stderr.trim());
    assert!(
        reason.len() <= 1024 && !reason.chars().any(char::is_control),
        "{reason:?}"
    );
    if let Some(status) = &received.status {
        assert!(!(status.success() && status.exit_code().is_some_and(|code| code != 0) && status.is_no_such_program()));
    }
}

/// The runtime's report on the end of the program: the used part of a Kubernetes `Status`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct ExecStatus {
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

impl From<KubectlEnd> for ExecStatus {
    fn from(end: KubectlEnd) -> Self {
        let failed = |message: String, causes| Self {
            status: "Failure".into(),
            message,
            details: Some(Details { causes }),
        };
        match end {
            KubectlEnd::Exited(0) => Self {
                status: "Success".into(),
                message: String::new(),
                details: None,
            },
            KubectlEnd::Exited(code) => {
                let cause = DetailCause {
                    reason: "ExitCode".into(),
                    message: code.to_string(),
                };
                failed(format!("command terminated with exit code {code}"), vec![cause])
            }
            KubectlEnd::Failed(message) => failed(message, Vec::new()),
        }
    }
}

impl ExecStatus {
    pub(super) fn success(&self) -> bool {
        self.status == "Success"
    }

    /// Returns the exit code of a program that ran and failed.
    pub(super) fn exit_code(&self) -> Option<i32> {
        let causes = &self.details.as_ref()?.causes;
        let cause = causes.iter().find(|cause| cause.reason == "ExitCode")?;
        cause.message.parse().ok()
    }

    /// Tells whether the runtime found no such program: containerd and CRI-O say so, others report a shell's code 127.
    pub(super) fn is_no_such_program(&self) -> bool {
        // The runtime also says "not found" about a container that is being removed.
        let concerns_program = self.message.contains("exec: \"");
        let texts = ["executable file not found", "no such file or directory"];
        self.exit_code() == Some(127) || concerns_program && texts.iter().any(|text| self.message.contains(text))
    }
}

impl Reader {
    /// Returns the next bytes of stdout; `None` at the end of the stream, which the other methods explain. Cancel-safe.
    pub(super) async fn stdout(&mut self) -> Option<Bytes> {
        loop {
            let stream = match &mut self.source {
                Source::Socket(stream) => stream,
                Source::Process(process) => {
                    if let Some(data) = process.stdout().await {
                        return Some(data);
                    }
                    if self.received.status.is_none() {
                        self.received.status = process.end().await.map(ExecStatus::from);
                    }
                    return None;
                }
            };
            let message = match stream.next().await {
                Some(Ok(message)) => message,
                Some(Err(error)) => {
                    self.received.broken = Some(match error {
                        // rustls' text for a missing close_notify is a paragraph; replace it.
                        Error::Io(error) if error.kind() == ErrorKind::UnexpectedEof => "it was cut".into(),
                        error => error.to_string(),
                    });
                    return None;
                }
                None => return None,
            };
            // The WebSocket library answers pings itself.
            let Message::Binary(message) = message else { continue };
            match self.received.take(message) {
                Ok(Some(data)) => return Some(data),
                Ok(None) => {}
                Err(()) => return None,
            }
        }
    }

    pub(super) fn status(&self) -> Option<&ExecStatus> {
        self.received.status.as_ref()
    }

    pub(super) fn stderr(&self) -> String {
        match &self.source {
            Source::Socket(_) => String::from_utf8_lossy(&self.received.stderr).trim().to_owned(),
            Source::Process(process) => process.stderr(),
        }
    }

    /// Tells, after the end of the stream, whether another attempt may succeed: the exec was cut off, and without a status the program may
    /// still run; or the API server did not reach the kubelet, and no program ran.
    pub(super) fn retry(&self) -> Retry {
        match &self.received.status {
            Some(status) if status.exit_code().is_none() && is_passing_fault(&status.message) => {
                Retry::ServerBusy(None)
            }
            Some(_) => Retry::Never,
            None => Retry::LinkCut,
        }
    }

    /// Returns how the exec ended, as a phrase.
    pub(super) fn end_reason(&self) -> String {
        self.received.end_reason(&self.stderr())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(json: &str) -> ExecStatus {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn a_status_tells_the_exit_code_and_an_absent_program() {
        let ended = status(
            r#"{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code",
                "reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"3"}]}}"#,
        );
        assert_eq!(
            (ended.success(), ended.exit_code(), ended.is_no_such_program()),
            (false, Some(3), false)
        );
        assert!(status(r#"{"metadata":{},"status":"Success"}"#).success());
        let containerd = status(
            r#"{"status":"Failure","message":"Internal error occurred: OCI runtime exec failed: exec: \"sh\": executable file not found in $PATH: unknown"}"#,
        );
        assert!(containerd.is_no_such_program());
        let gone = status(r#"{"status":"Failure","message":"failed to load task: no running task found: not found"}"#);
        assert!(!gone.is_no_such_program());
    }
}
