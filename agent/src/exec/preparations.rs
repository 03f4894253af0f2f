//! Preparations of execs: each id has one at a time. Duplicates of a request wait for it; other requests do not, however long it takes.
//! `registry` uses it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

use super::ExecId;

type Preparation = tokio::sync::Mutex<()>;

/// The preparations that run, by the id of their exec.
#[derive(Debug, Default)]
pub(super) struct Preparations(Mutex<HashMap<ExecId, Weak<Preparation>>>);

impl Preparations {
    /// Waits until no other request prepares the exec with this id. The guard ends the preparation.
    pub(super) async fn begin(&self, id: ExecId) -> OwnedMutexGuard<()> {
        self.of(id).lock_owned().await
    }

    fn of(&self, id: ExecId) -> Arc<Preparation> {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(preparation) = running.get(&id).and_then(Weak::upgrade) {
            return preparation;
        }
        running.retain(|_, preparation| preparation.strong_count() > 0);
        let preparation = Arc::default();
        running.insert(id, Arc::downgrade(&preparation));
        preparation
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_preparation_keeps_only_its_own_duplicates_waiting() {
        let preparations = Preparations::default();
        let [first, second] = [ExecId([1; 16]), ExecId([2; 16])];
        let guard = preparations.begin(first).await;
        let mut duplicate = Box::pin(preparations.begin(first));
        assert!((&mut duplicate).now_or_never().is_none());
        assert!(preparations.begin(second).now_or_never().is_some());
        drop(guard);
        drop(duplicate.now_or_never().unwrap());
        // An ended preparation leaves nothing behind.
        drop(preparations.begin(second).await);
        assert_eq!(preparations.0.lock().unwrap().len(), 1);
    }
}
