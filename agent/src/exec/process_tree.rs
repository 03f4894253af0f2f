//! The process tree of one exec: finds its members in /proc and signals them, including descendants that left the session. To end
//! it: SIGTERM to its group, a grace period, then SIGKILL for all that is left. `supervisor` calls it on a cancel, a timeout, a
//! lost client or an expired lease, `registry` for a signal. A normal exit signals nothing. `process_table` reads /proc for all trees.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use super::mark::Mark;
use super::process_table::{ProcessTable, Snapshots};
use crate::exec::ExecId;
use crate::sys::proc::{self, Process};
use crate::sys::reaper::Reaper;

/// First pause between two looks at a tree that is ending. Each pause is longer than the one before, as a look reads all of /proc.
const FIRST_POLL_PAUSE: Duration = Duration::from_millis(20);
/// Longest pause between two looks.
const LONGEST_POLL_PAUSE: Duration = Duration::from_millis(200);
/// Most rounds of SIGKILL. A tree that forks while it is killed needs more than one.
const KILL_ROUNDS: usize = 50;

/// The processes of one exec.
struct ProcessTree {
    reaper: Reaper,
    snapshots: Snapshots,
    leader: Pid,
    /// Mark of every member.
    mark: Mark,
    /// Members found so far: pid and start time.
    seen: HashMap<i32, u64>,
}

/// Ends the tree of `leader`, and returns the processes that the agent may not signal. The reaper reports the leader's exit to
/// its waiter, as for any other end.
pub(super) async fn end(reaper: &Reaper, table: &ProcessTable, id: ExecId, leader: Pid, grace: Duration) -> Vec<u32> {
    let mut tree = ProcessTree::new(reaper, table, id, leader);
    // Look before SIGTERM: once a parent has ended, its children have another parent.
    let mut alive = tree.alive_since(Instant::now()).await;
    let _ = reaper.signal_group(leader, Signal::TERM);
    let deadline = Instant::now() + grace;
    let mut pause = FIRST_POLL_PAUSE;
    while !alive.is_empty() && Instant::now() < deadline {
        // What another tree has seen during the pause is new enough, so many trees need no more looks than one.
        let last_look = Instant::now();
        sleep(pause).await;
        pause = (pause * 3 / 2).min(LONGEST_POLL_PAUSE);
        alive = tree.alive_since(last_look).await;
    }
    let mut refused = Vec::new();
    for _ in 0..KILL_ROUNDS {
        refused = tree.signal(alive, Signal::KILL).await;
        alive = tree.alive_since(Instant::now()).await;
        alive.retain(|process| !refused.contains(&(process.pid as u32)));
        if alive.is_empty() {
            break;
        }
        sleep(FIRST_POLL_PAUSE).await;
    }
    refused
}

/// Signals every process of the tree of `leader`.
pub(super) async fn signal(reaper: &Reaper, table: &ProcessTable, id: ExecId, leader: Pid, signal: Signal) {
    let mut tree = ProcessTree::new(reaper, table, id, leader);
    let alive = tree.alive_since(Instant::now()).await;
    tree.signal(alive, signal).await;
}

impl ProcessTree {
    fn new(reaper: &Reaper, table: &ProcessTable, id: ExecId, leader: Pid) -> Self {
        Self {
            reaper: reaper.clone(),
            snapshots: table.snapshots(),
            leader,
            mark: Mark::new(id),
            seen: HashMap::new(),
        }
    }

    /// Returns the processes of the tree that live at some moment after `asked`.
    async fn alive_since(&mut self, asked: Instant) -> Vec<Process> {
        let snapshot = self.snapshots.since(asked).await;
        let leader = self.leader.as_raw_nonzero().get();
        let mut members = snapshot.tree(leader, &self.mark, &self.seen);
        members.retain(|_, process| !process.zombie);
        self.seen.extend(members.values().map(|p| (p.pid, p.start)));
        members.into_values().collect()
    }

    /// Signals these processes; returns those that the agent may not signal.
    async fn signal(&self, processes: Vec<Process>, signal: Signal) -> Vec<u32> {
        if processes.is_empty() {
            return Vec::new();
        }
        let (reaper, leader) = (self.reaper.clone(), self.leader);
        let send = move || {
            let refused = processes
                .iter()
                .filter(|process| !send(&reaper, leader, process, signal));
            refused.map(|process| process.pid as u32).collect()
        };
        self.snapshots.signal(send).await
    }
}

/// Signals one process of the tree of `leader`; false if the agent may not.
fn send(reaper: &Reaper, leader: Pid, process: &Process, signal: Signal) -> bool {
    if process.pid == leader.as_raw_nonzero().get() {
        return is_permitted(reaper.signal_leader(leader, signal));
    }
    // Make sure that it is the same process. The kernel reuses a pid only after the whole range, but one read makes it certain.
    if proc::process(process.pid).is_none_or(|now| now.start != process.start) {
        return true;
    }
    let pid = Pid::from_raw(process.pid).expect("pids in /proc are positive");
    is_permitted(kill_process(pid, signal).map_err(Into::into))
}

/// Returns false if the system refused permission. A process that is gone needs no signal.
fn is_permitted(sent: io::Result<()>) -> bool {
    !matches!(sent, Err(error) if error.kind() == io::ErrorKind::PermissionDenied)
}
