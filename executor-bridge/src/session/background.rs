//! Calls to an agent that no client waits for. `session` starts them and settles them when the bridge ends.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Tasks of their own that are waited for only when the bridge ends.
#[derive(Debug, Default)]
pub(crate) struct BackgroundCalls(Mutex<tokio::task::JoinSet<()>>);

impl BackgroundCalls {
    pub(crate) fn send(&self, errand: impl Future<Output = ()> + Send + 'static) {
        let mut background_calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Ended ones are only dropped when asked for.
        while background_calls.try_join_next().is_some() {}
        background_calls.spawn(errand);
    }

    pub(crate) async fn settle(&self, backoff: Duration) {
        let mut background_calls = {
            let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *held)
        };
        // What is not done by then ends with the process.
        let _ = tokio::time::timeout(backoff, async { while background_calls.join_next().await.is_some() {} }).await;
    }
}
