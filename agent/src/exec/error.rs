//! What a caller of `exec` may have done wrong, or the agent cannot do. How a command ended is data, never an error.

use super::ExecId;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("exec {0:?} exists already with another request")]
    Conflict(ExecId),
    #[error("exec {id:?} may not start any more: it was {reason}")]
    Fenced { id: ExecId, reason: &'static str },
    #[error("there is no exec {0:?}")]
    Unknown(ExecId),
    #[error("exec {0:?} is not running")]
    NotRunning(ExecId),
    #[error("exec {0:?} is still running; cancel it first")]
    StillRunning(ExecId),
    #[error("exec {0:?} has no terminal")]
    NoTerminal(ExecId),
    #[error("exec {0:?} takes no stdin")]
    NoStdin(ExecId),
    #[error("stdin of exec {id:?} continues at offset {expected}, not at {got}")]
    StdinGap { id: ExecId, expected: u64, got: u64 },
    #[error("a newer writer has taken over stdin of exec {0:?}")]
    Evicted(ExecId),
    #[error("the agent holds {0} execs already; release ended ones")]
    Full(usize),
    #[error("the signal could not be sent to exec {id:?}")]
    Signal { id: ExecId, source: std::io::Error },
    #[error("the terminal of exec {id:?} could not be resized")]
    Resize { id: ExecId, source: std::io::Error },
}
