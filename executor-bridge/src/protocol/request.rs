//! What a client may ask for: one JSON object per connection, checked here once. `Debug` shows no argument, environment
//! or path: they may hold secrets.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use podbridge_proto::limits::MAX_PUTS;

use crate::protocol::VERSION;
use crate::protocol::byte_string::ByteString;
use crate::protocol::target::hex;
use crate::random;

#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("the request is no JSON object that this bridge understands: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the request speaks client protocol {0}, this bridge speaks {VERSION}; use the same release on both sides")]
    Version(u32),
    #[error("this bridge does not know {0:?}, which the request requires; use a newer podbridge")]
    Requires(String),
    #[error("operation {0:?} is unknown to this bridge")]
    Operation(String),
    #[error("{0}")]
    Invalid(&'static str),
}

/// A request of any operation.
#[derive(Debug)]
pub(crate) struct Request {
    /// `None`: the pod's default.
    pub container: Option<String>,
    pub operation: Operation,
}

#[derive(Debug)]
pub(crate) enum Operation {
    Exec(Box<Exec>),
    Put(Put),
    Get(Get),
    Stat(Stat),
    Connect,
    Relink,
    /// The logs of a Zuul build's pod; what its other bridges ask each other.
    Logs,
    Log(Log),
    DeleteLog(Log),
    /// Asks whether a token belongs to the user of this bridge; if so, later dials use it.
    AdmitToken(AdmitToken),
    Status,
    Stop,
}

/// Of `admit_token`.
#[derive(Serialize, Deserialize)]
pub(crate) struct AdmitToken {
    pub token: String,
}

/// As it travels.
#[derive(Serialize, Deserialize)]
struct Envelope {
    v: u32,
    op: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    container: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    requires: Vec<String>,
}

#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct Exec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub argv: Option<Vec<ByteString>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<ByteString>,
    /// The agent's own executable is the program; the first of `argv` is only its name.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub agent_program: bool,
    /// 32 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec_id: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<(ByteString, ByteString)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<ByteString>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pty: Option<Size>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kill_grace_ms: Option<u64>,
    #[serde(default)]
    pub stdin: Input,
    #[serde(default)]
    pub stdout: Output,
    #[serde(default)]
    pub stderr: Output,
    /// Files that are put before the command starts; the content of each is a descriptor, after those of the streams.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub puts: Vec<Put>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<Resume>,
}

/// How far an exec came through another bridge, which died. `requires` names it, so that no bridge begins again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Resume {
    /// The agent that may have the exec, and the only one that is asked.
    pub instance: String,
    /// The client was told that it started.
    #[serde(default)]
    pub started: bool,
    /// Bytes of output that the client has.
    #[serde(default)]
    pub stdout: u64,
    #[serde(default)]
    pub stderr: u64,
    /// Offset in stdin of the first STDIN frame.
    #[serde(default)]
    pub stdin: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Size {
    pub rows: u16,
    pub cols: u16,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Input {
    #[default]
    None,
    Stream,
    Fd,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Output {
    #[default]
    Stream,
    Fd,
}

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Put {
    pub path: ByteString,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtime_ns: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// On the disk before it is done.
    #[serde(default, skip_serializing_if = "is_false")]
    pub sync: bool,
    /// `path` leads from here, not out of it, and through no symbolic link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<ByteString>,
    /// STDIN_ACK frames for content from a descriptor too.
    #[serde(default, skip_serializing_if = "is_false")]
    pub progress: bool,
}

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Get {
    pub path: ByteString,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<ByteString>,
}

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Stat {
    pub path: ByteString,
    #[serde(default)]
    pub no_follow: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<ByteString>,
}

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Log {
    pub id: String,
    /// Where it was followed to before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
}

/// A place in a log; also what STDERR frames of `log` say.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Hexadecimal digits, only ever compared.
    pub file: String,
    pub offset: u64,
}

/// What `requires` may name: the operations and the keys of this version.
const KNOWN: &[&str] = &[
    "exec",
    "put",
    "get",
    "stat",
    "connect",
    "relink",
    "logs",
    "log",
    "delete_log",
    "admit_token",
    "status",
    "stop",
    "argv",
    "agent_program",
    "shell",
    "exec_id",
    "env",
    "cwd",
    "user",
    "pty",
    "timeout_ms",
    "kill_grace_ms",
    "stdin",
    "stdout",
    "stderr",
    "fd",
    "mode",
    "mtime_ns",
    "no_follow",
    "container",
    "puts",
    "resume",
    "sync",
    "root",
    "progress",
];

fn is_false(value: &bool) -> bool {
    !value
}

impl Request {
    pub(crate) fn parse(json: &[u8]) -> Result<Self, RequestError> {
        let envelope: Envelope = serde_json::from_slice(json)?;
        if envelope.v != VERSION {
            return Err(RequestError::Version(envelope.v));
        }
        if let Some(name) = envelope.requires.iter().find(|name| !KNOWN.contains(&name.as_str())) {
            return Err(RequestError::Requires(name.clone()));
        }
        let operation = match envelope.op.as_str() {
            "exec" => {
                let exec: Exec = serde_json::from_slice(json)?;
                exec.check()?;
                Operation::Exec(Box::new(exec))
            }
            "put" => Operation::Put(serde_json::from_slice(json)?),
            "get" => Operation::Get(serde_json::from_slice(json)?),
            "stat" => Operation::Stat(serde_json::from_slice(json)?),
            "connect" => Operation::Connect,
            "relink" => Operation::Relink,
            "logs" => Operation::Logs,
            "log" => Operation::Log(serde_json::from_slice(json)?),
            "delete_log" => Operation::DeleteLog(serde_json::from_slice(json)?),
            "admit_token" => Operation::AdmitToken(serde_json::from_slice(json)?),
            "status" => Operation::Status,
            "stop" => Operation::Stop,
            _ => return Err(RequestError::Operation(envelope.op)),
        };
        Ok(Self {
            container: envelope.container.filter(|name| !name.is_empty()),
            operation,
        })
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        let (op, body) = match &self.operation {
            Operation::Exec(exec) => ("exec", serde_json::to_value(exec)?),
            Operation::Put(put) => ("put", serde_json::to_value(put)?),
            Operation::Get(get) => ("get", serde_json::to_value(get)?),
            Operation::Stat(stat) => ("stat", serde_json::to_value(stat)?),
            Operation::Connect => ("connect", serde_json::json!({})),
            Operation::Relink => ("relink", serde_json::json!({})),
            Operation::Logs => ("logs", serde_json::json!({})),
            Operation::Log(log) => ("log", serde_json::to_value(log)?),
            Operation::DeleteLog(log) => ("delete_log", serde_json::to_value(log)?),
            Operation::AdmitToken(admission) => ("admit_token", serde_json::to_value(admission)?),
            Operation::Status => ("status", serde_json::json!({})),
            Operation::Stop => ("stop", serde_json::json!({})),
        };
        let mut envelope = serde_json::to_value(Envelope {
            v: VERSION,
            op: op.into(),
            container: self.container.clone(),
            requires: self.operation.requires(),
        })?;
        if let (Some(envelope), serde_json::Value::Object(body)) = (envelope.as_object_mut(), body) {
            envelope.extend(body);
        }
        serde_json::to_vec(&envelope)
    }
}

impl Operation {
    /// What a bridge that does not know it must not leave out in silence.
    fn requires(&self) -> Vec<String> {
        let needs: &[(&str, bool)] = match self {
            Operation::Exec(exec) => &[("resume", exec.resume.is_some()), ("agent_program", exec.agent_program)],
            Operation::Put(put) => &[("sync", put.sync), ("root", put.root.is_some())],
            Operation::Get(get) => &[("root", get.root.is_some())],
            Operation::Stat(stat) => &[("root", stat.root.is_some())],
            _ => &[],
        };
        let named = needs.iter().filter(|(_, needed)| *needed);
        named.map(|(name, _)| (*name).to_owned()).collect()
    }

    /// For logs and messages.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Operation::Exec(_) => "exec",
            Operation::Put(_) => "put",
            Operation::Get(_) => "get",
            Operation::Stat(_) => "stat",
            Operation::Connect => "connect",
            Operation::Relink => "relink",
            Operation::Logs => "logs",
            Operation::Log(_) => "log",
            Operation::DeleteLog(_) => "delete_log",
            Operation::AdmitToken(_) => "admit_token",
            Operation::Status => "status",
            Operation::Stop => "stop",
        }
    }
}

impl Exec {
    /// Returns an exec with a new random id and nothing to run yet. The id lets another bridge, or the agent, recognise a repeated
    /// request.
    pub(crate) fn new() -> Self {
        Self {
            exec_id: Some(hex(&random::bytes::<16>())),
            ..Self::default()
        }
    }

    fn check(&self) -> Result<(), RequestError> {
        match (&self.argv, &self.shell) {
            (Some(argv), None) if argv.is_empty() => return Err(RequestError::Invalid("argv is empty")),
            (Some(_), None) | (None, Some(_)) => {}
            _ => return Err(RequestError::Invalid("exec needs argv or shell, and not both")),
        }
        if self.exec_id.is_some() && self.id().is_none() {
            return Err(RequestError::Invalid("exec_id must be 32 hexadecimal digits"));
        }
        if self.puts.len() > MAX_PUTS {
            return Err(RequestError::Invalid("at most 16 files go with a command"));
        }
        if self.puts.iter().any(|put| put.sync || put.root.is_some()) {
            return Err(RequestError::Invalid(
                "files that go with a command take no sync and no root",
            ));
        }
        if self.resume.is_some() && self.exec_id.is_none() {
            return Err(RequestError::Invalid("resume needs the exec_id of what is resumed"));
        }
        if self.pty.is_some() && self.stderr == Output::Fd {
            return Err(RequestError::Invalid(
                "with a pty there is no stderr to write to a descriptor",
            ));
        }
        Ok(())
    }

    /// The client's own id, if it made one.
    pub(crate) fn id(&self) -> Option<[u8; 16]> {
        let text = self.exec_id.as_deref()?;
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
    }

    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.timeout_ms.filter(|ms| *ms != 0).map(Duration::from_millis)
    }
}

impl fmt::Debug for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exec")
            .field("argc", &self.argv.as_ref().map(Vec::len))
            .field("stdin", &self.stdin)
            .finish_non_exhaustive()
    }
}

macro_rules! opaque_debug {
    ($($type:ident),+) => {
        $(impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($type)).finish_non_exhaustive()
            }
        })+
    };
}
opaque_debug!(Put, Get, Stat, Log, AdmitToken);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exec_is_read_with_its_defaults() {
        let json = br#"{"v":1,"op":"exec","argv":["echo",{"b64":"/w=="}],"env":[["A","1"]],"later":true}"#;
        let request = Request::parse(json).unwrap();
        let Operation::Exec(exec) = request.operation else {
            panic!("not an exec")
        };
        assert_eq!(exec.argv.as_ref().unwrap()[1], ByteString(vec![0xff]));
        assert_eq!((exec.stdin, exec.stdout), (Input::None, Output::Stream));
        assert_eq!(request.container, None);
    }

    #[test]
    fn what_was_encoded_is_read_back() {
        let operation = Operation::Exec(Box::new(Exec {
            shell: Some("id".into()),
            exec_id: Some("00112233445566778899aabbccddeeff".into()),
            pty: Some(Size { rows: 1, cols: 2 }),
            ..Exec::default()
        }));
        let request = Request {
            container: Some("main".into()),
            operation,
        };
        let read = Request::parse(&request.encode().unwrap()).unwrap();
        assert_eq!(read.container.as_deref(), Some("main"));
        let Operation::Exec(exec) = read.operation else {
            panic!("not an exec")
        };
        assert_eq!(exec.id().unwrap()[..2], [0x00, 0x11]);
        assert_eq!(exec.pty, Some(Size { rows: 1, cols: 2 }));
    }

    #[test]
    fn bad_requests_are_refused() {
        for json in [
            r#"{"v":2,"op":"status"}"#,
            r#"{"v":1,"op":"status","requires":["teleport"]}"#,
            r#"{"v":1,"op":"teleport"}"#,
            r#"{"v":1,"op":"exec"}"#,
            r#"{"v":1,"op":"exec","argv":[]}"#,
            r#"{"v":1,"op":"exec","argv":["a"],"shell":"b"}"#,
            r#"{"v":1,"op":"exec","argv":["a"],"exec_id":"+0112233445566778899aabbccddeeff"}"#,
            r#"{"v":1,"op":"exec","argv":["a"],"stdin":"tape"}"#,
            r#"{"v":1,"op":"exec","argv":["a"],"puts":[{}]}"#,
            r#"{"op":"status"}"#,
            "[]",
            "",
        ] {
            assert!(Request::parse(json.as_bytes()).is_err(), "{json}");
        }
    }

    #[test]
    fn arguments_are_not_shown() {
        let request = Request::parse(br#"{"v":1,"op":"exec","argv":["SECRET"],"env":[["A","SECRET"]]}"#).unwrap();
        assert!(!format!("{request:?}").contains("SECRET"));
    }
}
