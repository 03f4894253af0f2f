//! How an exec ended. An end is reported only from one of these records, never from a closed connection.

/// The exit record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExitRecord {
    pub cause: Cause,
    /// Processes that were told to end but could not be killed: another user's.
    pub survivors: Vec<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    Exited(u8),
    Signaled(u8),
    TimedOut(String),
    Cancelled(String),
    OomKilled(String),
    StartFailed(StartFailure),
}

/// The command never ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartFailure {
    /// `stdin`, `user`, `cwd`, `exec`, `interpreter`, `fork`, `session`.
    pub step: &'static str,
    pub errno: i32,
    /// One sentence for people.
    pub message: String,
    /// As a shell would exit: 127 not found, else 126.
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
