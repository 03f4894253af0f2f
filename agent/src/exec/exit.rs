//! Exit records: how an exec ended. The agent reports an end from such a record only, never from a closed connection. Data without
//! behaviour: `supervisor` and `process` make it, `rpc::convert` translates it.

/// How an exec ended, and what its end left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitRecord {
    pub cause: Cause,
    /// Processes of the tree that the agent may not kill, because they belong to another user.
    pub survivors: Vec<u32>,
}

/// Cause of an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// Exit code.
    Exited(u8),
    /// Number of the signal.
    Signaled(u8),
    /// The command's own timeout ended it; one sentence for people.
    TimedOut(String),
    /// A client, a lost client or the agent's own end ended it; the reason.
    Cancelled(String),
    /// The kernel killed it for memory; one sentence for people.
    OomKilled(String),
    StartFailed(StartFailure),
}

/// Reason why the command never ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartFailure {
    /// The step that failed: `stdin`, `user`, `cwd`, `exec`, `interpreter`, `fork` or `session`.
    pub step: &'static str,
    pub errno: i32,
    /// Error message for people: one sentence.
    pub message: String,
    /// Exit code that a shell would use: 127 if the program or its interpreter is missing, else 126.
    pub exit_code: u8,
}

impl From<Cause> for ExitRecord {
    fn from(cause: Cause) -> Self {
        Self {
            cause,
            survivors: Vec::new(),
        }
    }
}
