//! What keeps git from running, in a sentence for people and the exit code of a shell or of git.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("there is no git here; install it in the image, or put it beside the agent, in {}", beside.display())]
    NoGit { beside: PathBuf },
    #[error("{} cannot be run: {source}", program.display())]
    CannotRun { program: PathBuf, source: io::Error },
    #[error("no user {0} here, whose home ~{0} would be")]
    UnknownUser(String),
    #[error("the repository {} cannot be made: {source}", path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error("the repository {} cannot be made: git init: {message}", path.display())]
    Init { path: PathBuf, message: String },
}

impl Error {
    pub(crate) fn code(&self) -> u8 {
        match self {
            Error::NoGit { .. } => 127,
            Error::CannotRun { .. } => 126,
            Error::UnknownUser(_) | Error::Create { .. } | Error::Init { .. } => 128,
        }
    }
}
