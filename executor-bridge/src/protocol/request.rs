//! Requests of clients: one JSON object per connection, checked once, here. `client` encodes them and `daemon` parses them. `Debug` shows no
//! argument, no environment and no path: they may hold secrets.

use std::fmt;
use std::time::Duration;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use podbridge_proto::limits::MAX_PUTS;
use podbridge_proto::words;

use crate::protocol::VERSION;
use crate::protocol::byte_string::ByteString;
use crate::protocol::json_fault::json_fault;
use crate::random;

/// Longest name of a container, bytes: the bridge keeps the names. Those of Kubernetes are shorter.
const MAX_CONTAINER_NAME: usize = 253;

/// Reason why a request is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    #[error("the request is not a JSON object that this bridge understands: {0}")]
    Json(String),
    #[error("the request speaks client protocol {0}, this bridge speaks {VERSION}; use the same release on both sides")]
    Version(u32),
    #[error("this bridge does not know \"{0}\", which the request requires; use a newer podbridge")]
    Requires(String),
    #[error("operation \"{0}\" is unknown to this bridge; use a newer podbridge")]
    Operation(String),
    #[error("{0}")]
    Invalid(&'static str),
}

impl From<serde_json::Error> for RequestError {
    fn from(error: serde_json::Error) -> Self {
        RequestError::Json(json_fault(&error))
    }
}

/// A request of any operation.
#[derive(Debug)]
pub(crate) struct Request {
    /// `None` means the pod's default container.
    pub container: Option<String>,
    pub operation: Operation,
}

/// Tells whether the client of a request takes NOTICE frames.
pub(crate) fn takes_notices(json: &[u8]) -> bool {
    serde_json::from_slice(json).is_ok_and(|envelope: Envelope| envelope.notices)
}

/// Returns an upper limit of the values in a request, without parsing it: its commas outside of strings, and one.
pub(crate) fn count_values(json: &[u8]) -> usize {
    let (mut count, mut in_string, mut is_escaped) = (1, false, false);
    for byte in json {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => in_string = !in_string,
            b',' if !in_string => count += 1,
            _ => {}
        }
    }
    count
}

/// Defines the operations from one table: variant, name on the wire, and for the first group the type of the fields that stand in the
/// request beside `op`.
macro_rules! operations {
    (with_fields { $($variant:ident($type:ty) => $name:literal;)+ } without_fields { $($(#[$attribute:meta])* $bare:ident => $bare_name:literal;)+ }) => {
        /// An operation with its fields.
        #[derive(Debug)]
        pub(crate) enum Operation {
            $($variant($type),)+
            $($(#[$attribute])* $bare,)+
        }

        impl Operation {
            const NAMES: &'static [&'static str] = &[$($name,)+ $($bare_name,)+];

            /// Returns the operation's name on the wire, for logs and messages too.
            pub(crate) fn name(&self) -> &'static str {
                match self {
                    $(Operation::$variant(_) => $name,)+
                    $(Operation::$bare => $bare_name,)+
                }
            }

            /// Tells whether the operation moves bytes of a client to the pod or from it. The others are small.
            pub(crate) fn moves_data(&self) -> bool {
                matches!(self, Operation::Exec(_) | Operation::Put(_) | Operation::Get(_) | Operation::Stat(_))
            }

            /// Reads the fields of the operation that `name` names.
            fn parse(name: &str, json: &[u8]) -> Result<Self, RequestError> {
                match name {
                    $($name => Ok(Operation::$variant(serde_json::from_slice(json)?)),)+
                    $($bare_name => Ok(Operation::$bare),)+
                    _ => Err(RequestError::Operation(words::name(name))),
                }
            }

            /// Returns the operation's own fields as a JSON object.
            fn fields(&self) -> Result<serde_json::Value, serde_json::Error> {
                match self {
                    $(Operation::$variant(fields) => serde_json::to_value(fields),)+
                    $(Operation::$bare)|+ => Ok(serde_json::json!({})),
                }
            }
        }
    };
}

operations! {
    with_fields {
        Exec(Box<Exec>) => "exec";
        Put(Put) => "put";
        Get(Get) => "get";
        Stat(Stat) => "stat";
        Log(Log) => "log";
        DeleteLog(Log) => "delete_log";
        AdmitToken(AdmitToken) => "admit_token";
    }
    without_fields {
        Connect => "connect";
        Relink => "relink";
        /// Lists the logs of a Zuul build's pod. The bridges of one build ask this of each other.
        Logs => "logs";
        Status => "status";
        Stop => "stop";
    }
}

/// Asks whether a token belongs to the user of this bridge; if so, later dials use it.
#[derive(Serialize, Deserialize)]
pub(crate) struct AdmitToken {
    pub token: String,
}

/// The fields that every request has.
#[derive(Serialize, Deserialize)]
struct Envelope {
    v: u32,
    op: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    container: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    requires: Vec<String>,
    /// The client takes NOTICE frames. Programs of other languages and older releases do not.
    #[serde(default, skip_serializing_if = "is_false")]
    notices: bool,
}

#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct Exec {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub argv: Option<Vec<ByteString>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<ByteString>,
    /// Runs the agent's own executable; the first word of `argv` is only its name.
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
    /// A module of Ansible gets a new Python, even if the agent has a warm one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cold_python: bool,
    #[serde(default)]
    pub stdin: Input,
    #[serde(default)]
    pub stdout: Output,
    #[serde(default)]
    pub stderr: Output,
    /// Files that are put before the command starts. The content of each comes by a file descriptor, after the descriptors of the streams.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub puts: Vec<Put>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resume: Option<Resume>,
}

/// Progress of an exec through another bridge, which died. `requires` names `resume`, so that no bridge starts the command again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Resume {
    /// Instance of the agent that may have the exec; no other agent is asked.
    pub instance: String,
    /// The client already knows that the command started.
    #[serde(default)]
    pub started: bool,
    /// Number of bytes of stdout that the client has.
    #[serde(default)]
    pub stdout: u64,
    /// Number of bytes of stderr that the client has.
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
    /// Writes the file to disk (fsync) before the operation is done.
    #[serde(default, skip_serializing_if = "is_false")]
    pub sync: bool,
    /// Directory that `path` starts from; `path` may not leave it and may not pass through a symbolic link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<ByteString>,
    /// Sends STDIN_ACK frames also if the content comes by a file descriptor.
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
    /// Position up to which the client has the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
}

/// Position in a log; the STDERR frames of `log` carry it too.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Identity of the file in hexadecimal digits; it is only compared.
    pub file: String,
    pub offset: u64,
}

/// Keys of this version; `requires` may name these keys and the operations.
const KEYS: &[&str] = &[
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
    /// Reads and checks a client's JSON.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, RequestError> {
        let envelope: Envelope = serde_json::from_slice(json)?;
        if envelope.v != VERSION {
            return Err(RequestError::Version(envelope.v));
        }
        if envelope
            .container
            .as_ref()
            .is_some_and(|name| name.len() > MAX_CONTAINER_NAME)
        {
            return Err(RequestError::Invalid("the name of the container is too long"));
        }
        let is_known = |name: &str| KEYS.contains(&name) || Operation::NAMES.contains(&name);
        if let Some(name) = envelope.requires.iter().find(|name| !is_known(name)) {
            return Err(RequestError::Requires(words::name(name)));
        }
        let operation = Operation::parse(&envelope.op, json)?;
        if let Operation::Exec(exec) = &operation {
            exec.check()?;
        }
        Ok(Self {
            container: envelope.container.filter(|name| !name.is_empty()),
            operation,
        })
    }

    /// Returns the JSON of a request frame.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, serde_json::Error> {
        let mut envelope = serde_json::to_value(Envelope {
            v: VERSION,
            op: self.operation.name().into(),
            container: self.container.clone(),
            requires: self.operation.requires(),
            notices: true,
        })?;
        if let (Some(envelope), serde_json::Value::Object(fields)) =
            (envelope.as_object_mut(), self.operation.fields()?)
        {
            envelope.extend(fields);
        }
        serde_json::to_vec(&envelope)
    }
}

impl Operation {
    /// Returns the keys that change the meaning of the request: a bridge that does not know one of them must refuse the request.
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
}

impl Exec {
    /// Returns an exec with a new random id and nothing to run yet. The id lets another bridge, or the agent, recognise a repeated
    /// request.
    pub(crate) fn new() -> Self {
        Self {
            exec_id: Some(HEXLOWER.encode(&random::bytes::<16>())),
            ..Self::default()
        }
    }

    /// Refuses contradictions between the fields.
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

    /// Returns the id that the client chose; `None` without one, or if it is no id.
    pub(crate) fn id(&self) -> Option<[u8; 16]> {
        let text = self.exec_id.as_deref()?;
        if text.len() != 32 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return None;
        }
        u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
    }

    /// Returns the time limit of the command; `None` without one.
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
    fn values_are_counted_without_parsing() {
        for (json, count) in [
            (r#"{"v":1,"argv":["a","b,c,d","e\",f"]}"#, 4),
            (r#"["","",""]"#, 3),
            ("", 1),
            (r#"","#, 1),
        ] {
            assert_eq!(count_values(json.as_bytes()), count, "{json}");
        }
    }

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
