//! A request to run a command. Data without behaviour: `rpc::convert` makes and checks it, `process` and `supervisor` read it.

use std::ffi::CString;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use super::{Overflow, Size};

/// UUID that the client made. It is the only handle of an exec: any client that knows it may use the exec.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ExecId(pub [u8; 16]);

impl fmt::Display for ExecId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Shows four bytes, in logs and errors: the whole id would be a handle.
impl fmt::Debug for ExecId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// SHA-256 of the request, made by the client; tells a repeated Start from a conflicting one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Digest(pub [u8; 32]);

/// Source of a command's stdin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StdinMode {
    /// No input: /dev/null.
    Null,
    /// Input that a client writes by offset while the command runs.
    Stream,
    /// The whole input.
    Inline(Bytes),
}

/// Effect of the loss of the last reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDisconnect {
    /// The command continues until its lease ends.
    Lease,
    /// The process tree is ended at once.
    Cancel,
}

/// A command to run. `Debug` shows neither arguments nor environment: both may hold secrets.
#[derive(Clone)]
pub struct Command {
    pub id: ExecId,
    pub digest: Digest,
    /// At least one word. The first is looked up in PATH unless it contains a slash.
    pub argv: Vec<CString>,
    /// True to run the agent's own executable; the first word of `argv` is then only its name.
    pub agent_program: bool,
    /// Names and values, added to the agent's own environment; later ones win.
    pub env: Vec<(Vec<u8>, Vec<u8>)>,
    /// Working directory; `None`: the agent's own.
    pub cwd: Option<CString>,
    /// `user` or `user:group`, names or numbers; `None`: the agent's own user.
    pub user: Option<String>,
    /// Size of the terminal; `None`: pipes instead of a terminal.
    pub pty: Option<Size>,
    pub stdin: StdinMode,
    pub timeout: Option<Duration>,
    /// Time between SIGTERM and SIGKILL.
    pub kill_grace: Duration,
    pub on_disconnect: OnDisconnect,
    /// Time without a reader after which a running command is ended, and the output of an ended one is discarded.
    pub lease: Duration,
    pub overflow: Overflow,
    /// Name of the group that `list` shows; empty: none.
    pub session: Vec<u8>,
    /// True to start a new interpreter for a module of Ansible, even if a warm one is there.
    pub cold_python: bool,
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Command")
            .field("id", &self.id)
            .field("argc", &self.argv.len())
            .finish_non_exhaustive()
    }
}
