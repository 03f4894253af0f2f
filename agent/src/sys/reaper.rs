//! The one owner of every wait: it forks, remembers, reaps and signals children under one lock, so that no exit is lost
//! and no signal reaches a recycled pid. Orphans adopted by the agent (a subreaper) are reaped and forgotten.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, kill_process_group, wait};
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

/// Children not yet reaped, and who waits for each.
type Table = HashMap<Pid, oneshot::Sender<ExitStatus>>;

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
            if let (Some(waiter), Some(exit)) = (table.remove(&pid), ExitStatus::of(status)) {
                // Nobody may be waiting any more; the child is reaped all the same.
                let _ = waiter.send(exit);
            }
        }
    }

    /// Forks and waits for the exec. Blocking: for a thread that may block.
    pub(crate) fn spawn(&self, command: &Prepared) -> Result<Child, ForkError> {
        let (sender, exit) = oneshot::channel();
        let forked = {
            let mut table = self.lock();
            let forked = fork(command)?;
            table.insert(forked.pid, sender);
            forked
        };
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
        if !table.contains_key(&pid) {
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
