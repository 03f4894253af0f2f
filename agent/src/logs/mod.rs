//! Files that grow, followed as they are written: before they exist, and after they were truncated, replaced or deleted.
//! Nothing is polled as long as inotify can be had. No gRPC here; `rpc::logs` forwards what a follower finds.

mod directories;
mod error;
mod follower;
mod inotify;
mod name_watcher;
mod open_log;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_blocking;

pub use error::Error;
pub use follower::Follower;
pub use inotify::Pattern;
use inotify::Watches;
pub use name_watcher::{NameChanges, NameWatcher};

/// Looks at files at once, each on a thread that may block: when thousands of followers are woken, the rest waits for a
/// moment instead of starting hundreds of threads.
const MAX_CHECKS: usize = 8;

/// A place in one life of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    pub file: FileId,
    pub offset: u64,
}

/// Device, inode and time of birth; only ever compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileId(pub Bytes);

#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// There is no such regular file, or none that may be read.
    Absent,
    /// The data that follows begins here.
    Begins(Position),
    Data(Bytes),
}

/// All followers of this agent.
#[derive(Debug)]
pub struct Logs {
    watches: Arc<Watches>,
    checks: Arc<Semaphore>,
    /// Followers that have gone.
    gone: watch::Sender<u64>,
}

impl Default for Logs {
    fn default() -> Self {
        Self {
            watches: Arc::default(),
            checks: Arc::new(Semaphore::new(MAX_CHECKS)),
            gone: watch::Sender::new(0),
        }
    }
}

impl Logs {
    /// Follows an absolute path, in pieces of at most `max` bytes; goes on at `from` if the file is still that one.
    pub fn follow(&self, path: PathBuf, from: Option<Position>, max: usize) -> Follower {
        Follower::new(self, path, from, max)
    }

    /// The names of a form in a directory, by its absolute path.
    pub fn list(&self, directory: PathBuf, pattern: Pattern) -> NameWatcher {
        NameWatcher::new(self, directory, pattern)
    }

    /// Changes whenever a follower has gone.
    pub fn gone(&self) -> watch::Receiver<u64> {
        self.gone.subscribe()
    }
}

/// Looks on a thread that may block, when there is room for one more look.
async fn on_thread<T, R>(checks: &Arc<Semaphore>, mut who: T, look: fn(&mut T) -> R) -> Result<(T, R), Error>
where
    T: Send + 'static,
    R: Send + 'static,
{
    let room = checks.clone().acquire_owned().await.expect("it is never closed");
    let looked = spawn_blocking(move || {
        let found = look(&mut who);
        drop(room);
        (who, found)
    });
    looked.await.map_err(|_| Error::Panicked)
}

/// Deletes a file; one that is not there is no error. Blocking.
pub fn remove(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::system("delete it", path)(error)),
        _ => Ok(()),
    }
}
