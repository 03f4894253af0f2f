//! Ends an exec's whole process tree: TERM to its group, a grace, then KILL for all that is left, descendants that left
//! the session included. Only for cancel, timeout, a lost client or an expired lease: a normal exit signals nothing.

use std::collections::HashMap;
use std::io;
use std::time::Duration;

use rustix::process::{Pid, Signal, getpid, kill_process};
use tokio::time::{Instant, sleep};

use super::environment;
use crate::exec::ExecId;
use crate::sys::proc::{self, Process};
use crate::sys::reaper::Reaper;

/// How soon the dying tree is looked at again: later and later, as each look reads all of /proc.
const FIRST_POLL_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_POLL_PAUSE: Duration = Duration::from_millis(200);
/// Rounds of KILL: a tree that forks while it is killed is found again.
const KILL_ROUNDS: usize = 50;

/// The processes of one exec, as seen so far, by pid and start time.
struct ProcessTree<'a> {
    reaper: &'a Reaper,
    leader: Pid,
    cookie: Vec<u8>,
    seen: HashMap<i32, u64>,
}

/// Ends the tree of `leader`; returns the processes that may not be signalled. The leader's exit is reported to
/// whoever waits for it, as always.
pub(crate) async fn end(reaper: &Reaper, id: ExecId, leader: Pid, grace: Duration) -> Vec<u32> {
    let mut tree = ProcessTree::new(reaper, id, leader);
    // Before TERM: afterwards the links from parent to child are gone.
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

/// Signals every process of the tree.
pub(crate) fn signal(reaper: &Reaper, id: ExecId, leader: Pid, signal: Signal) {
    let mut tree = ProcessTree::new(reaper, id, leader);
    for process in tree.scan() {
        tree.send(&process, signal);
    }
}

impl<'a> ProcessTree<'a> {
    fn new(reaper: &'a Reaper, id: ExecId, leader: Pid) -> Self {
        let cookie = environment::cookie(id);
        let seen = HashMap::new();
        Self {
            reaper,
            leader,
            cookie,
            seen,
        }
    }

    /// All living processes of the tree: descendants and session of the leader, what was seen before, and whoever
    /// carries the cookie.
    fn scan(&mut self) -> Vec<Process> {
        let all = proc::processes();
        let leader = self.leader.as_raw_nonzero().get();
        let agent = getpid().as_raw_nonzero().get();
        let mut members: HashMap<i32, Process> = HashMap::new();
        let known = |p: &Process| {
            p.pid == leader
                || p.session == leader
                || self.seen.get(&p.pid) == Some(&p.start)
                // Who has lost its parent was adopted by the agent, or by the container's first process.
                || ((p.parent == agent || p.parent == 1) && proc::has_environment(p.pid, &self.cookie))
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

    fn kill(&self, processes: &[Process]) -> Vec<u32> {
        let refused = processes.iter().filter(|process| !self.send(process, Signal::KILL));
        refused.map(|process| process.pid as u32).collect()
    }

    /// False if the process may not be signalled.
    fn send(&self, process: &Process, signal: Signal) -> bool {
        if process.pid == self.leader.as_raw_nonzero().get() {
            return is_permitted(self.reaper.signal_leader(self.leader, signal));
        }
        // The same process still? A pid is reused only after the whole range, but it costs one read to be sure.
        if proc::process(process.pid).is_none_or(|now| now.start != process.start) {
            return true;
        }
        let pid = Pid::from_raw(process.pid).expect("pids in /proc are positive");
        is_permitted(kill_process(pid, signal).map_err(Into::into))
    }
}

/// False if the system refused; a process that is gone needs no signal.
fn is_permitted(sent: io::Result<()>) -> bool {
    !matches!(sent, Err(error) if error.kind() == io::ErrorKind::PermissionDenied)
}
