//! What /proc shows, read once for all trees that are signalled or ended at the same time. A process list is long and each process of it
//! is a few files, so 200 trees that each read it for themselves would keep the agent busy for many seconds. One thread reads or signals at
//! a time, and it is none of those that serve clients. `process_tree` asks it; `registry` owns it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex as StdMutex, PoisonError, Weak};

use rustix::process::getpid;
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::mark::Mark;
use crate::sys::proc::{self, Process};

/// All processes at one moment.
#[derive(Debug)]
pub(super) struct Snapshot {
    processes: HashMap<i32, Process>,
    /// Pids by parent, and by session.
    children: HashMap<i32, Vec<i32>>,
    sessions: HashMap<i32, Vec<i32>>,
    /// Processes whose parent has ended, by their mark: the agent or the container's first process has adopted them.
    marked: HashMap<Mark, Vec<i32>>,
}

impl Snapshot {
    /// Reads /proc. It takes a while.
    fn read() -> Self {
        let agent = getpid().as_raw_nonzero().get();
        let is_adopted = |process: &Process| process.parent == agent || process.parent == 1;
        let with_mark = |process: Process| {
            let mark = is_adopted(&process).then(|| Mark::of(process.pid)).flatten();
            (process, mark)
        };
        Self::new(proc::processes().into_iter().map(with_mark))
    }

    fn new(processes: impl Iterator<Item = (Process, Option<Mark>)>) -> Self {
        let mut snapshot = Self {
            processes: HashMap::new(),
            children: HashMap::new(),
            sessions: HashMap::new(),
            marked: HashMap::new(),
        };
        for (process, mark) in processes {
            let Process {
                pid, parent, session, ..
            } = process;
            snapshot.children.entry(parent).or_default().push(pid);
            snapshot.sessions.entry(session).or_default().push(pid);
            if let Some(mark) = mark {
                snapshot.marked.entry(mark).or_default().push(pid);
            }
            snapshot.processes.insert(pid, process);
        }
        snapshot
    }

    /// Returns the processes of the tree of `leader`, zombies included: the leader, its session, the processes with its mark, those of
    /// `seen` (pid and start time), and the descendants of all of them.
    pub(super) fn tree(&self, leader: i32, mark: &Mark, seen: &HashMap<i32, u64>) -> HashMap<i32, Process> {
        let is_same = |pid: &i32| {
            self.processes
                .get(pid)
                .is_some_and(|now| seen.get(pid) == Some(&now.start))
        };
        let none = Vec::new();
        let session = self.sessions.get(&leader).unwrap_or(&none);
        let marked = self.marked.get(mark).unwrap_or(&none);
        let mut found: Vec<i32> = [leader].iter().chain(session).chain(marked).copied().collect();
        found.extend(seen.keys().filter(|pid| is_same(pid)));
        let mut members = HashMap::new();
        while let Some(pid) = found.pop() {
            let Some(process) = self.processes.get(&pid) else {
                continue;
            };
            if members.insert(pid, *process).is_none() {
                found.extend(self.children.get(&pid).unwrap_or(&none));
            }
        }
        members
    }
}

/// The newest snapshot, and when it was begun. The lock is the turn to read or to signal.
type Newest = Mutex<Option<(Instant, Arc<Snapshot>)>>;

/// Access to /proc for one tree. The newest snapshot lives as long as any tree has one of these.
#[derive(Debug, Clone, Default)]
pub(super) struct Snapshots(Arc<Newest>);

impl Snapshots {
    /// Returns a snapshot that was begun at `asked` or later. Those who wait at the same time share it.
    pub(super) async fn since(&self, asked: Instant) -> Arc<Snapshot> {
        let turn = self.turn().await;
        if let Some((begun, snapshot)) = &*turn
            && *begun >= asked
        {
            return snapshot.clone();
        }
        let read = spawn_blocking(move || {
            let mut turn = turn;
            let begun = Instant::now();
            let snapshot = Arc::new(Snapshot::read());
            *turn = Some((begun, snapshot.clone()));
            snapshot
        });
        read.await.expect("reading /proc does not panic")
    }

    /// Runs what signals many processes, on a thread that may block.
    pub(super) async fn signal<T: Send + 'static>(&self, send: impl FnOnce() -> T + Send + 'static) -> T {
        let turn = self.turn().await;
        let sent = spawn_blocking(move || {
            let sent = send();
            drop(turn);
            sent
        });
        sent.await.expect("signals do not panic")
    }

    /// Waits for the turn. The thread keeps it, so that a caller who goes away does not let the next thread begin beside it.
    async fn turn(&self) -> OwnedMutexGuard<Option<(Instant, Arc<Snapshot>)>> {
        self.0.clone().lock_owned().await
    }
}

/// The process table of the container; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct ProcessTable(Arc<StdMutex<Weak<Newest>>>);

impl ProcessTable {
    /// Returns the access for one tree. Trees that have one at the same time share snapshots.
    pub(super) fn snapshots(&self) -> Snapshots {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let snapshots = shared.upgrade().map(Snapshots).unwrap_or_default();
        *shared = Arc::downgrade(&snapshots.0);
        snapshots
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEADER: i32 = 10;

    fn process(pid: i32, parent: i32, session: i32) -> Process {
        Process {
            pid,
            parent,
            group: session,
            session,
            zombie: false,
            start: u64::from(pid.unsigned_abs()),
        }
    }

    #[test]
    fn a_tree_has_its_session_its_descendants_its_mark_and_what_was_seen() {
        let mark = Mark::FileLocks(7);
        let snapshot = Snapshot::new(
            [
                (process(LEADER, 2, LEADER), None),
                (process(11, LEADER, LEADER), None),
                // In a session of its own, and a child of that one.
                (process(12, 11, 12), None),
                (process(13, 12, 13), None),
                // Adopted: by session, by mark, and one that was seen before.
                (process(14, 1, LEADER), None),
                (process(15, 2, 15), Some(mark.clone())),
                (process(16, 15, 16), None),
                (process(17, 1, 17), None),
                // The pid of one that was seen before belongs to another process now.
                (process(18, 1, 18), None),
                // Others.
                (process(19, 2, 19), Some(Mark::FileLocks(8))),
                (process(20, 19, 20), None),
            ]
            .into_iter(),
        );
        let seen = HashMap::from([(17, 17), (18, 3)]);
        let mut pids: Vec<i32> = snapshot.tree(LEADER, &mark, &seen).into_keys().collect();
        pids.sort_unstable();
        assert_eq!(pids, [LEADER, 11, 12, 13, 14, 15, 16, 17]);
    }

    #[tokio::test]
    async fn those_who_ask_at_the_same_time_share_a_snapshot_that_is_younger_than_their_question() {
        let table = ProcessTable::default();
        let (first, second) = (table.snapshots(), table.snapshots());
        let asked = Instant::now();
        let old = first.since(asked).await;
        assert!(Arc::ptr_eq(&old, &second.since(asked).await));
        assert!(!Arc::ptr_eq(&old, &second.since(Instant::now()).await));
        // The last tree takes the snapshot along.
        drop((first, second));
        let forgotten = Arc::downgrade(&old);
        drop(old);
        assert!(forgotten.upgrade().is_none());
        assert!(!table.snapshots().since(Instant::now()).await.processes.is_empty());
    }
}
