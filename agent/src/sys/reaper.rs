//! The one owner of every wait: it remembers, reaps and signals children under one lock, so that no exit is lost and no
//! signal reaches a recycled pid. Orphans adopted by the agent (a subreaper) are reaped and forgotten.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitOptions, WaitStatus, kill_process, kill_process_group, wait, waitid,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::fork::{ForkError, Prepared, Step, fork};

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExitStatus {
    Exited(u8),
    Signaled(u8),
}

impl ExitStatus {
    fn of(status: WaitStatus) -> Option<Self> {
        if let Some(code) = status.exit_status() {
            return Some(Self::Exited(code as u8));
        }
        status.terminating_signal().map(|signal| Self::Signaled(signal as u8))
    }
}

#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: Pid,
    pub(crate) exit: oneshot::Receiver<ExitStatus>,
}

#[derive(Debug, Default)]
struct Table {
    /// Children not yet reaped, and who waits for each.
    children: HashMap<Pid, oneshot::Sender<ExitStatus>>,
    /// Forks under way. The lock is not held meanwhile: each takes as long as its file system.
    forking: usize,
    /// How processes ended, while some fork was under way, that are in no table: orphans, or children whose fork has not returned.
    unknown: HashMap<Pid, ExitStatus>,
}

impl Table {
    fn ended(&mut self, pid: Pid, exit: ExitStatus) {
        if let Some(waiter) = self.children.remove(&pid) {
            // Nobody may be waiting any more; the child is reaped all the same.
            let _ = waiter.send(exit);
        } else if self.forking > 0 {
            self.unknown.insert(pid, exit);
        }
    }

    /// A fork has returned.
    fn forked(&mut self, child: Option<(Pid, oneshot::Sender<ExitStatus>)>) {
        self.forking -= 1;
        if let Some((pid, waiter)) = child {
            match self.unknown.remove(&pid) {
                Some(exit) if is_reaped(pid) => {
                    let _ = waiter.send(exit);
                }
                // What was seen is the end of an orphan that had this pid before.
                _ => {
                    self.children.insert(pid, waiter);
                }
            }
        }
        if self.forking == 0 {
            self.unknown = HashMap::new();
        }
    }
}

/// A child of ours by this pid is no more, running or ended. To be asked under the lock.
fn is_reaped(pid: Pid) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    waitid(WaitId::Pid(pid), options).is_err_and(|errno| errno == Errno::CHILD)
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Reaper {
    table: Arc<Mutex<Table>>,
}

impl Reaper {
    /// Becomes subreaper and starts reaping; needs a tokio runtime.
    pub(crate) fn start() -> io::Result<Self> {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let reaper = Self::default();
        let mut children = signal(SignalKind::child())?;
        let reaping = reaper.clone();
        tokio::spawn(async move {
            loop {
                reaping.reap();
                // SIGCHLD coalesces: each delivery reaps all there are.
                if children.recv().await.is_none() {
                    return;
                }
            }
        });
        Ok(reaper)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no panic while the table is locked")
    }

    fn reap(&self) {
        let mut table = self.lock();
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if let Some(exit) = ExitStatus::of(status) {
                table.ended(pid, exit);
            }
        }
    }

    /// Forks and waits for the exec. Blocking: for a thread that may block.
    pub(crate) fn spawn(&self, command: &Prepared) -> Result<Child, ForkError> {
        let (sender, exit) = oneshot::channel();
        self.lock().forking += 1;
        let forked = fork(command);
        let child = forked.as_ref().ok().map(|forked| (forked.pid, sender));
        self.lock().forked(child);
        let forked = forked?;
        let pid = forked.pid;
        forked.executed()?;
        Ok(Child { pid, exit })
    }

    /// Signals a child that has not been reaped; `NotFound` once it has.
    pub(crate) fn signal_leader(&self, pid: Pid, signal: Signal) -> io::Result<()> {
        self.while_unreaped(pid, || kill_process(pid, signal))
    }

    /// Signals the process group that the child leads.
    pub(crate) fn signal_group(&self, pid: Pid, signal: Signal) -> io::Result<()> {
        self.while_unreaped(pid, || kill_process_group(pid, signal))
    }

    fn while_unreaped(&self, pid: Pid, kill: impl FnOnce() -> rustix::io::Result<()>) -> io::Result<()> {
        let table = self.lock();
        if !table.children.contains_key(&pid) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(kill()?)
    }
}

impl ForkError {
    /// The step's name on the wire.
    pub(crate) fn step_name(&self) -> &'static str {
        match self.step {
            Step::Fork => "fork",
            Step::Session => "session",
            Step::Stdio => "stdin",
            Step::User => "user",
            Step::Cwd => "cwd",
            Step::Exec => "exec",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn forking() -> Table {
        Table {
            forking: 1,
            ..Table::default()
        }
    }

    #[test]
    fn a_child_that_ends_before_its_fork_returns_is_not_missed() {
        let mut child = Command::new("true").spawn().unwrap();
        let pid = Pid::from_child(&child);
        child.wait().unwrap();
        let (sender, mut exit) = oneshot::channel();
        let mut table = forking();
        table.ended(pid, ExitStatus::Exited(3));
        table.forked(Some((pid, sender)));
        assert_eq!(exit.try_recv(), Ok(ExitStatus::Exited(3)));
        assert!(table.children.is_empty() && table.unknown.is_empty());
    }

    #[test]
    fn an_orphan_that_had_the_pid_before_says_nothing_of_the_child() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let pid = Pid::from_child(&child);
        let (sender, mut exit) = oneshot::channel();
        let mut table = forking();
        table.ended(pid, ExitStatus::Exited(3));
        table.forked(Some((pid, sender)));
        assert_eq!(exit.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        table.ended(pid, ExitStatus::Signaled(9));
        assert_eq!(exit.try_recv(), Ok(ExitStatus::Signaled(9)));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
