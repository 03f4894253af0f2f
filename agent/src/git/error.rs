//! Reasons why git cannot run: a sentence for people, and an exit code as a shell or git would use it.

use std::io;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("there is no git here; install it in the image{}", beside_the_agent(own_directory.as_deref()))]
    NoGit { own_directory: Option<PathBuf> },
    #[error("{} cannot be run: {source}", program.display())]
    CannotRun { program: PathBuf, source: io::Error },
    #[error("the path starts with ~{0}, but the container has no user {0}")]
    UnknownUser(String),
    #[error("the repository belongs to uid {uid}, and podbridge-agent cannot act as that user: {source}")]
    Owner { uid: u32, source: io::Error },
    #[error("the repository {} cannot be made: {source}", path.display())]
    Create { path: PathBuf, source: io::Error },
    #[error("the repository {} cannot be made: git init: {message}", path.display())]
    Init { path: PathBuf, message: String },
}

/// Names the other place for programs, if others cannot put programs there.
fn beside_the_agent(directory: Option<&Path>) -> String {
    let directory =
        directory.map(|directory| format!(", or put it into the agent's own directory, {}", directory.display()));
    directory.unwrap_or_default()
}

impl Error {
    /// Returns the exit code: 126 and 127 as from a shell, 128 as from git.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Error::NoGit { .. } => 127,
            Error::CannotRun { .. } => 126,
            Error::UnknownUser(_) | Error::Owner { .. } | Error::Create { .. } | Error::Init { .. } => 128,
        }
    }
}
