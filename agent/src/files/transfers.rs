//! Transfers that a broken stream left half-done, kept for a while so that their senders can go on, and the ends of those that
//! were completed, so that none is done twice. One stream at a time has a transfer.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use podbridge_proto::digest::Sum;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::Put;

/// Longer than senders look for a new link.
const KEEP_FOR: Duration = Duration::from_secs(60);
/// Each is an open file, and room on the disk.
const MAX_HALF_DONE: usize = 16;
const MAX_COMPLETED: usize = 1024;

pub type TransferId = [u8; 16];

/// What the sender of a completed transfer was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    pub length: u64,
    pub sum: Sum,
}

#[derive(Debug, Clone, Default)]
pub struct Transfers(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    held: Mutex<Table>,
    /// Told whenever a stream leaves its transfer.
    left: Notify,
}

#[derive(Debug, Default)]
struct Table {
    /// Told to leave when another stream comes.
    streams: HashMap<TransferId, Arc<Notify>>,
    half_done: VecDeque<Expiring<Put>>,
    completed: VecDeque<Expiring<Receipt>>,
}

#[derive(Debug)]
struct Expiring<T> {
    id: TransferId,
    until: Instant,
    what: T,
}

/// What is there of a transfer.
#[derive(Debug)]
pub enum TransferState {
    New,
    HalfDone(Put),
    Completed(Receipt),
}

/// A stream's hold of its transfer; the next one waits until it is dropped.
#[derive(Debug)]
pub struct TransferGuard {
    transfers: Transfers,
    id: TransferId,
    leave: Arc<Notify>,
}

impl Transfers {
    /// Waits until no other stream has it; that one is told to leave.
    pub async fn begin(&self, id: TransferId) -> (TransferGuard, TransferState) {
        loop {
            let left = self.0.left.notified();
            if let Some(begun) = self.try_begin(id) {
                return begun;
            }
            left.await;
        }
    }

    fn try_begin(&self, id: TransferId) -> Option<(TransferGuard, TransferState)> {
        let mut held = self.held();
        if let Some(other) = held.streams.get(&id) {
            other.notify_one();
            return None;
        }
        let leave = Arc::<Notify>::default();
        held.streams.insert(id, leave.clone());
        let place = held.half_done.iter().position(|kept| kept.id == id);
        let begun = match place.and_then(|place| held.half_done.remove(place)) {
            Some(kept) => TransferState::HalfDone(kept.what),
            None => match held.completed.iter().find(|kept| kept.id == id) {
                Some(kept) => TransferState::Completed(kept.what),
                None => TransferState::New,
            },
        };
        let transfers = self.clone();
        Some((TransferGuard { transfers, id, leave }, begun))
    }

    fn held(&self) -> MutexGuard<'_, Table> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what is older than it may be.
    fn expire(&self) {
        let mut gone = Vec::new();
        {
            let mut held = self.held();
            let now = Instant::now();
            while let Some(kept) = held.half_done.pop_front_if(|kept| kept.until <= now) {
                gone.push(kept.what);
            }
            while held.completed.pop_front_if(|kept| kept.until <= now).is_some() {}
        }
        remove(gone);
    }

    /// Forgets all; what was half-done is removed.
    pub fn clear(&self) {
        let held = std::mem::take(&mut *self.held());
        drop(held);
    }
}

impl TransferGuard {
    /// Ends when another stream wants to go on.
    pub async fn over(&self) {
        self.leave.notified().await;
    }

    /// Keeps what has come until the sender goes on.
    pub fn keep(self, put: Put) {
        let until = Instant::now() + KEEP_FOR;
        let oldest = {
            let mut held = self.transfers.held();
            held.half_done.push_back(Expiring {
                id: self.id,
                until,
                what: put,
            });
            match held.half_done.len() > MAX_HALF_DONE {
                true => held.half_done.pop_front(),
                false => None,
            }
        };
        remove(oldest.into_iter().map(|kept| kept.what).collect());
        let transfers = self.transfers.clone();
        tokio::spawn(async move {
            sleep(KEEP_FOR).await;
            transfers.expire();
        });
    }

    pub fn complete(self, receipt: Receipt) {
        self.transfers.expire();
        let mut held = self.transfers.held();
        if held.completed.len() == MAX_COMPLETED {
            held.completed.pop_front();
        }
        held.completed.push_back(Expiring {
            id: self.id,
            until: Instant::now() + KEEP_FOR,
            what: receipt,
        });
    }
}

impl Drop for TransferGuard {
    fn drop(&mut self) {
        self.transfers.held().streams.remove(&self.id);
        self.transfers.0.left.notify_waiters();
    }
}

/// Removing a large file takes a while.
fn remove(puts: Vec<Put>) {
    if !puts.is_empty() {
        spawn_blocking(move || drop(puts));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use podbridge_proto::digest::Hasher;
    use podbridge_proto::v1::Digest;

    use super::super::{Location, Target};
    use super::*;

    fn put(directory: &Path, content: &[u8]) -> Put {
        let location = Location {
            path: directory.join("file"),
            ..Location::default()
        };
        let target = Target {
            location,
            ..Target::default()
        };
        let mut put = Put::create(target, Hasher::new(Digest::Blake3)).unwrap();
        put.write(content).unwrap();
        put
    }

    fn files(directory: &Path) -> usize {
        std::fs::read_dir(directory).unwrap().count()
    }

    async fn until(count: usize, directory: &Path) {
        while files(directory) != count {
            sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn what_was_kept_goes_on_once_and_what_was_completed_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let transfers = Transfers::default();
        let (turn, begun) = transfers.begin([1; 16]).await;
        assert!(matches!(begun, TransferState::New));
        turn.keep(put(dir.path(), b"half"));
        let (turn, begun) = transfers.begin([1; 16]).await;
        let TransferState::HalfDone(put) = begun else {
            panic!("{begun:?}")
        };
        assert_eq!(put.length(), 4);
        drop(put);
        let receipt = Receipt {
            length: 4,
            sum: [7; 32],
        };
        turn.complete(receipt);
        for _ in 0..2 {
            let (_turn, begun) = transfers.begin([1; 16]).await;
            assert!(matches!(begun, TransferState::Completed(found) if found == receipt));
        }
        assert_eq!(files(dir.path()), 0);
    }

    #[tokio::test]
    async fn a_second_stream_ends_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let transfers = Transfers::default();
        let (turn, _) = transfers.begin([1; 16]).await;
        let put = put(dir.path(), b"half");
        let second = tokio::spawn({
            let transfers = transfers.clone();
            async move { transfers.begin([1; 16]).await.1 }
        });
        turn.over().await;
        assert!(!second.is_finished());
        turn.keep(put);
        assert!(matches!(second.await.unwrap(), TransferState::HalfDone(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_kept_for_ever_or_without_limit() {
        let dir = tempfile::tempdir().unwrap();
        let transfers = Transfers::default();
        for id in 0..20 {
            let (turn, _) = transfers.begin([id; 16]).await;
            turn.keep(put(dir.path(), b"half"));
        }
        until(MAX_HALF_DONE, dir.path()).await;
        assert!(matches!(transfers.begin([3; 16]).await.1, TransferState::New));
        sleep(KEEP_FOR - Duration::from_secs(5)).await;
        assert_eq!(files(dir.path()), MAX_HALF_DONE);
        sleep(Duration::from_secs(10)).await;
        until(0, dir.path()).await;
        assert!(matches!(transfers.begin([19; 16]).await.1, TransferState::New));
    }
}
