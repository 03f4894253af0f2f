//! The process tree of one exec: finds its members in /proc and signals them, including descendants that left the session. To end
//! it: SIGTERM to its group, a grace period, then SIGKILL for all that is left. `supervisor` calls it on a cancel, a timeout, a
//! lost client or an expired lease, `registry` for a signal. A normal exit signals nothing.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use rustix::process::{Pid, Signal, getpid, kill_process};
use tokio::time::{Instant, sleep};

use super::mark::Mark;
use crate::exec::ExecId;
use crate::sys::proc::{self, Process};
use crate::sys::reaper::Reaper;

/// First pause between two scans of a tree that is ending. Each pause is longer than the one before, as a scan reads all of /proc.
const FIRST_POLL_PAUSE: Duration = Duration::from_millis(20);
/// Longest pause between two scans.
const LONGEST_POLL_PAUSE: Duration = Duration::from_millis(200);
/// Most rounds of SIGKILL. A tree that forks while it is killed needs more than one.
const KILL_ROUNDS: usize = 50;

/// The processes of one exec.
struct ProcessTree<'a> {
    reaper: &'a Reaper,
    leader: Pid,
    /// Mark of every member.
    mark: Mark,
    /// Members found so far: pid and start time.
    seen: HashMap<i32, u64>,
}

/// Ends the tree of `leader`, and returns the processes that the agent may not signal. The reaper reports the leader's exit to
/// its waiter, as for any other end.
pub(crate) async fn end(reaper: &Reaper, id: ExecId, leader: Pid, grace: Duration) -> Vec<u32> {
    let mut tree = ProcessTree::new(reaper, id, leader);
    // Scan before SIGTERM: once a parent has ended, its children have another parent.
    let mut alive = tree.scan();
    let _ = reaper.signal_group(leader, Signal::TERM);
    let deadline = Instant::now() + grace;
    let mut pause = FIRST_POLL_PAUSE;
    while !alive.is_empty() && Instant::now() < deadline {
        sleep(pause).await;
        pause = (pause * 3 / 2).min(LONGEST_POLL_PAUSE);
        alive = tree.scan();
    }
    let mut refused = Vec::new();
    for _ in 0..KILL_ROUNDS {
        refused = tree.kill(&alive);
        alive = tree.scan();
        alive.retain(|process| !refused.contains(&(process.pid as u32)));
        if alive.is_empty() {
            break;
        }
        sleep(FIRST_POLL_PAUSE).await;
    }
    refused
}

/// Signals every process of the tree of `leader`.
pub(crate) fn signal(reaper: &Reaper, id: ExecId, leader: Pid, signal: Signal) {
    let mut tree = ProcessTree::new(reaper, id, leader);
    for process in tree.scan() {
        tree.send(&process, signal);
    }
}

impl<'a> ProcessTree<'a> {
    fn new(reaper: &'a Reaper, id: ExecId, leader: Pid) -> Self {
        let mark = Mark::new(id);
        let seen = HashMap::new();
        Self {
            reaper,
            leader,
            mark,
            seen,
        }
    }

    /// Returns all living processes of the tree: descendants of the leader, its session, members found before, and processes with
    /// the mark.
    fn scan(&mut self) -> Vec<Process> {
        let all = proc::processes();
        let leader = self.leader.as_raw_nonzero().get();
        let agent = getpid().as_raw_nonzero().get();
        let mut members: HashMap<i32, Process> = HashMap::new();
        let known = |p: &Process| {
            p.pid == leader
                || p.session == leader
                || self.seen.get(&p.pid) == Some(&p.start)
                // A process whose parent ended was adopted by the agent or by the container's first process.
                || ((p.parent == agent || p.parent == 1) && self.mark.is_on(p.pid))
        };
        members.extend(all.iter().filter(|p| known(p)).map(|p| (p.pid, *p)));
        loop {
            let before = members.len();
            let children = all
                .iter()
                .filter(|p| members.contains_key(&p.parent))
                .map(|p| (p.pid, *p));
            members.extend(children.collect::<Vec<_>>());
            if members.len() == before {
                break;
            }
        }
        members.retain(|_, process| !process.zombie);
        self.seen.extend(members.values().map(|p| (p.pid, p.start)));
        members.into_values().collect()
    }

    /// Sends SIGKILL; returns the processes that the agent may not signal.
    fn kill(&self, processes: &[Process]) -> Vec<u32> {
        let refused = processes.iter().filter(|process| !self.send(process, Signal::KILL));
        refused.map(|process| process.pid as u32).collect()
    }

    /// Signals one process; false if the agent may not.
    fn send(&self, process: &Process, signal: Signal) -> bool {
        if process.pid == self.leader.as_raw_nonzero().get() {
            return is_permitted(self.reaper.signal_leader(self.leader, signal));
        }
        // Make sure that it is the same process. The kernel reuses a pid only after the whole range, but one read makes it certain.
        if proc::process(process.pid).is_none_or(|now| now.start != process.start) {
            return true;
        }
        let pid = Pid::from_raw(process.pid).expect("pids in /proc are positive");
        is_permitted(kill_process(pid, signal).map_err(Into::into))
    }
}

/// Returns false if the system refused permission. A process that is gone needs no signal.
fn is_permitted(sent: io::Result<()>) -> bool {
    !matches!(sent, Err(error) if error.kind() == io::ErrorKind::PermissionDenied)
}
