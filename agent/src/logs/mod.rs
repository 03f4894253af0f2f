//! Growing files, followed while they are written: before they exist, and after they were truncated, replaced or deleted. Nothing is
//! polled as long as inotify works. This domain knows no gRPC and no generated type; `rpc::logs` forwards its events.

mod directories;
mod error;
mod event;
mod follower;
mod inotify;
mod name_watcher;
mod open_log;
mod shared;

use std::io;
use std::path::{Path, PathBuf};

use tokio::sync::watch;

pub use error::Error;
pub use event::{Event, FileId, Position};
pub use follower::Follower;
pub use inotify::Pattern;
pub use name_watcher::{NameChanges, NameWatcher};
use shared::Shared;

use crate::files::SystemError;

/// All followers and name watchers of this agent.
#[derive(Debug, Default)]
pub struct Logs(Shared);

impl Logs {
    /// Follows the file at an absolute path, in chunks of at most `max` bytes; continues at `from` if the path still names that file.
    pub fn follow(&self, path: PathBuf, from: Option<Position>, max: usize) -> Follower {
        Follower::new(self.0.clone(), path, from, max)
    }

    /// Watches the names that match `pattern` in a directory, given by its absolute path.
    pub fn watch_names(&self, directory: PathBuf, pattern: Pattern) -> NameWatcher {
        NameWatcher::new(self.0.clone(), directory, pattern)
    }

    /// Returns the number of followers that have ended; its receiver wakes whenever one ends.
    pub fn ended_followers(&self) -> watch::Receiver<u64> {
        self.0.ended_followers.subscribe()
    }
}

/// Deletes a file; success if it is absent. Blocks.
pub fn remove(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(SystemError::during("delete it", path)(error).into())
        }
        _ => Ok(()),
    }
}
