//! State that all followers and name watchers of an agent share: the inotify instance, and the limit of checks at once.

use std::sync::Arc;

use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_blocking;

use super::Error;
use super::inotify::Watches;

/// Limit of checks of files at once, each on a thread that may block: when thousands of followers wake at once, most of
/// them wait for a moment, and the agent does not start hundreds of threads.
const MAX_CHECKS: usize = 8;

/// The shared state; clones are handles of the same state.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) watches: Arc<Watches>,
    checks: Arc<Semaphore>,
    /// Number of followers that have ended.
    pub(super) ended_followers: watch::Sender<u64>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            watches: Arc::default(),
            checks: Arc::new(Semaphore::new(MAX_CHECKS)),
            ended_followers: watch::Sender::new(0),
        }
    }
}

impl Shared {
    /// Runs `check` on a thread that may block; waits until fewer than `MAX_CHECKS` run. Returns `owner` with the result.
    pub(super) async fn on_thread<T, R>(&self, mut owner: T, check: fn(&mut T) -> R) -> Result<(T, R), Error>
    where
        T: Send + 'static,
        R: Send + 'static,
    {
        let permit = self.checks.clone().acquire_owned().await.expect("it is never closed");
        let checked = spawn_blocking(move || {
            let result = check(&mut owner);
            drop(permit);
            (owner, result)
        });
        checked.await.map_err(|_| Error::Panicked)
    }
}
