//! Errors of this domain: a wrong request, or something that the agent cannot do. The end of a command is never an error; see
//! `exit`. `rpc::convert` turns them into statuses.

use super::ExecId;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("exec {0:?} was already started by another request; use a new id")]
    Conflict(ExecId),
    #[error("exec {id:?} cannot start: its id was {reason}")]
    Fenced { id: ExecId, reason: &'static str },
    #[error("there is no exec {0:?}")]
    Unknown(ExecId),
    #[error("exec {0:?} is not running")]
    NotRunning(ExecId),
    #[error("exec {0:?} is still running; cancel it first")]
    StillRunning(ExecId),
    #[error("exec {0:?} has no terminal; start it with one")]
    NoTerminal(ExecId),
    #[error("exec {0:?} takes no stdin; start it with stdin")]
    NoStdin(ExecId),
    #[error("stdin of exec {id:?} continues at offset {expected}, but the data begins at offset {got}")]
    StdinGap { id: ExecId, expected: u64, got: u64 },
    #[error("a newer writer has taken over stdin of exec {0:?}")]
    Evicted(ExecId),
    #[error("the agent already holds {0} execs; release those that have ended")]
    Full(usize),
    #[error("cannot send the signal to exec {id:?}")]
    Signal { id: ExecId, source: std::io::Error },
    #[error("cannot resize the terminal of exec {id:?}")]
    Resize { id: ExecId, source: std::io::Error },
}
