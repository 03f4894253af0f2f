//! Table of resumable transfers. A transfer whose stream broke is kept half-done for a while, so that its sender can continue; the
//! receipt of a completed transfer is kept, so that no file is written twice. One stream at a time holds a transfer. `receive` uses the
//! table; `app` empties it when the agent ends.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use podbridge_proto::digest::ContentDigest;
use rustix::io::Errno;
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use super::Put;

/// Lifetime of half-done transfers and of receipts. A bridge looks for a new link for its connect timeout, which is 30 s by default.
const KEEP_FOR: Duration = Duration::from_secs(60);
/// Limit of half-done transfers: each has an open file and takes space on the disk.
const MAX_HALF_DONE: usize = 16;
/// Limit of receipts.
const MAX_COMPLETED: usize = 1024;

/// Random id that the sender chooses.
pub type TransferId = [u8; 16];

/// Answer to the sender of a completed transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    pub length: u64,
    pub digest: ContentDigest,
    /// Reason why the file was written in place; `None`: it was replaced.
    pub in_place: Option<Errno>,
}

/// All transfers of this agent; a clone is another handle of the same table.
#[derive(Debug, Clone, Default)]
pub struct Transfers(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    table: Mutex<Table>,
    /// Notified whenever a stream drops its guard.
    released: Notify,
}

#[derive(Debug, Default)]
struct Table {
    /// Transfers that a stream holds; the value is notified when another stream wants the transfer.
    streams: HashMap<TransferId, Arc<Notify>>,
    half_done: VecDeque<Expiring<Put>>,
    completed: VecDeque<Expiring<Receipt>>,
}

#[derive(Debug)]
struct Expiring<T> {
    id: TransferId,
    expires: Instant,
    value: T,
}

/// What the agent has of a transfer when a stream takes it.
#[derive(Debug)]
pub enum TransferState {
    New,
    HalfDone(Put),
    Completed(Receipt),
}

/// Guard of a transfer that one stream holds; the next stream waits until the guard is dropped.
#[derive(Debug)]
pub struct TransferGuard {
    transfers: Transfers,
    id: TransferId,
    takeover: Arc<Notify>,
}

impl Transfers {
    /// Takes the transfer. If another stream holds it, asks that stream to give it up and waits until it has.
    pub async fn begin(&self, id: TransferId) -> (TransferGuard, TransferState) {
        loop {
            let released = self.0.released.notified();
            if let Some(started) = self.try_begin(id) {
                return started;
            }
            released.await;
        }
    }

    fn try_begin(&self, id: TransferId) -> Option<(TransferGuard, TransferState)> {
        let mut table = self.lock();
        if let Some(other) = table.streams.get(&id) {
            other.notify_one();
            return None;
        }
        let takeover = Arc::<Notify>::default();
        table.streams.insert(id, takeover.clone());
        let index = table.half_done.iter().position(|kept| kept.id == id);
        let state = match index.and_then(|index| table.half_done.remove(index)) {
            Some(kept) => TransferState::HalfDone(kept.value),
            None => match table.completed.iter().find(|kept| kept.id == id) {
                Some(kept) => TransferState::Completed(kept.value),
                None => TransferState::New,
            },
        };
        let transfers = self.clone();
        let guard = TransferGuard {
            transfers,
            id,
            takeover,
        };
        Some((guard, state))
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes what has reached the end of its lifetime.
    fn expire(&self) {
        let mut expired = Vec::new();
        {
            let mut table = self.lock();
            let now = Instant::now();
            while let Some(kept) = table.half_done.pop_front_if(|kept| kept.expires <= now) {
                expired.push(kept.value);
            }
            while table.completed.pop_front_if(|kept| kept.expires <= now).is_some() {}
        }
        remove(expired);
    }

    /// Forgets every transfer and removes the files of half-done ones. Blocks while it removes them.
    pub fn clear(&self) {
        let table = std::mem::take(&mut *self.lock());
        drop(table);
    }
}

impl TransferGuard {
    /// Waits until another stream wants this transfer.
    pub async fn taken_over(&self) {
        self.takeover.notified().await;
    }

    /// Keeps a half-done transfer for the next stream of its sender. If the limit is exceeded, removes the oldest one.
    pub fn keep(self, put: Put) {
        let expires = Instant::now() + KEEP_FOR;
        let oldest = {
            let mut table = self.transfers.lock();
            table.half_done.push_back(Expiring {
                id: self.id,
                expires,
                value: put,
            });
            if table.half_done.len() > MAX_HALF_DONE {
                table.half_done.pop_front()
            } else {
                None
            }
        };
        remove(oldest.into_iter().map(|kept| kept.value).collect());
        let transfers = self.transfers.clone();
        tokio::spawn(async move {
            sleep(KEEP_FOR).await;
            transfers.expire();
        });
    }

    /// Records the transfer as completed. If the limit is reached, forgets the oldest receipt.
    pub fn complete(self, receipt: Receipt) {
        self.transfers.expire();
        let mut table = self.transfers.lock();
        if table.completed.len() == MAX_COMPLETED {
            table.completed.pop_front();
        }
        table.completed.push_back(Expiring {
            id: self.id,
            expires: Instant::now() + KEEP_FOR,
            value: receipt,
        });
    }
}

impl Drop for TransferGuard {
    fn drop(&mut self) {
        self.transfers.lock().streams.remove(&self.id);
        self.transfers.0.released.notify_waiters();
    }
}

/// Drops the files on a thread that may block, because removing a large file takes a while.
fn remove(puts: Vec<Put>) {
    if !puts.is_empty() {
        spawn_blocking(move || drop(puts));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use podbridge_proto::digest::ContentHasher;

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
        let mut put = Put::create(target, ContentHasher::Blake3(Box::default())).unwrap();
        put.write(content).unwrap();
        put
    }

    fn files(directory: &Path) -> usize {
        std::fs::read_dir(directory).unwrap().count()
    }

    async fn wait_for_files(count: usize, directory: &Path) {
        while files(directory) != count {
            sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn a_half_done_transfer_continues_once_and_a_completed_one_is_remembered() {
        let dir = tempfile::tempdir().unwrap();
        let transfers = Transfers::default();
        let (guard, state) = transfers.begin([1; 16]).await;
        assert!(matches!(state, TransferState::New));
        guard.keep(put(dir.path(), b"half"));
        let (guard, state) = transfers.begin([1; 16]).await;
        let TransferState::HalfDone(put) = state else {
            panic!("{state:?}")
        };
        assert_eq!(put.length(), 4);
        drop(put);
        let receipt = Receipt {
            length: 4,
            digest: [7; 32],
            in_place: None,
        };
        guard.complete(receipt);
        for _ in 0..2 {
            let (_guard, state) = transfers.begin([1; 16]).await;
            assert!(matches!(state, TransferState::Completed(found) if found == receipt));
        }
        assert_eq!(files(dir.path()), 0);
    }

    #[tokio::test]
    async fn a_second_stream_takes_the_transfer_from_the_first() {
        let dir = tempfile::tempdir().unwrap();
        let transfers = Transfers::default();
        let (guard, _) = transfers.begin([1; 16]).await;
        let put = put(dir.path(), b"half");
        let second = tokio::spawn({
            let transfers = transfers.clone();
            async move { transfers.begin([1; 16]).await.1 }
        });
        guard.taken_over().await;
        assert!(!second.is_finished());
        guard.keep(put);
        assert!(matches!(second.await.unwrap(), TransferState::HalfDone(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn half_done_transfers_are_limited_in_number_and_lifetime() {
        let dir = tempfile::tempdir().unwrap();
        let transfers = Transfers::default();
        for id in 0..20 {
            let (guard, _) = transfers.begin([id; 16]).await;
            guard.keep(put(dir.path(), b"half"));
        }
        wait_for_files(MAX_HALF_DONE, dir.path()).await;
        assert!(matches!(transfers.begin([3; 16]).await.1, TransferState::New));
        sleep(KEEP_FOR - Duration::from_secs(5)).await;
        assert_eq!(files(dir.path()), MAX_HALF_DONE);
        sleep(Duration::from_secs(10)).await;
        wait_for_files(0, dir.path()).await;
        assert!(matches!(transfers.begin([19; 16]).await.1, TransferState::New));
    }
}
