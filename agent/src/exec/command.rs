//! What is to be run: validated by `rpc`, read by `process` and `supervisor`. No behaviour of its own.

use std::ffi::CString;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use super::{Overflow, Size};

/// UUID made by the client. It is the only handle of an exec: knowing it is being allowed to use it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ExecId(pub [u8; 16]);

impl fmt::Display for ExecId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Logs and errors show four bytes: the whole id would be a handle.
impl fmt::Debug for ExecId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// SHA-256 of the request as its client means it; tells a repeated Start from a conflicting one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest(pub [u8; 32]);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StdinMode {
    /// /dev/null.
    Null,
    /// Written by offset while the command runs.
    Stream,
    /// All of it is here.
    Inline(Bytes),
}

/// What the loss of the last reader does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDisconnect {
    /// The command goes on until its lease ends.
    Lease,
    /// The tree is ended at once.
    Cancel,
}

/// One command. `Debug` shows neither arguments nor environment: both may hold secrets.
#[derive(Clone)]
pub struct Command {
    pub id: ExecId,
    pub digest: Digest,
    /// At least one; the first is looked up in PATH unless it holds a slash.
    pub argv: Vec<CString>,
    /// The agent's own executable is the program; the first of `argv` is only its name.
    pub agent_program: bool,
    /// Name and value, added to the agent's own environment; later ones win.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// `None`: the agent's.
    pub cwd: Option<CString>,
    /// `user` or `user:group`, names or numbers; `None`: the agent's own.
    pub user: Option<String>,
    pub pty: Option<Size>,
    pub stdin: StdinMode,
    pub timeout: Option<Duration>,
    /// Between TERM and KILL.
    pub kill_grace: Duration,
    pub on_disconnect: OnDisconnect,
    /// How long it may live, and its output be kept, without a reader.
    pub lease: Duration,
    pub overflow: Overflow,
    /// Groups execs for `List`; empty: none.
    pub session: Vec<u8>,
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Command")
            .field("id", &self.id)
            .field("argc", &self.argv.len())
            .finish_non_exhaustive()
    }
}
