//! The reaper, the only caller of wait(2) in a serving agent: it records, reaps and signals children under one lock, so that no exit
//! is lost and no signal reaches a recycled pid. As subreaper the agent also adopts orphans; they are reaped and forgotten. `app` starts it, `exec`
//! spawns and signals through it.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::process::{Pid, Signal, Uid, WaitOptions, WaitStatus, getpid, kill_process, kill_process_group, wait};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::fork::{ForkError, PreparedCommand, fork};
use super::proc;

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExitStatus {
    Exited(u8),
    Signaled(u8),
}

impl ExitStatus {
    fn from_wait(status: WaitStatus) -> Option<Self> {
        if let Some(code) = status.exit_status() {
            return Some(Self::Exited(code as u8));
        }
        status.terminating_signal().map(|signal| Self::Signaled(signal as u8))
    }
}

/// A child that has executed its program.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: Pid,
    /// Gets the exit status once the child is reaped.
    pub(crate) exit: oneshot::Receiver<ExitStatus>,
}

#[derive(Debug, Default)]
struct Table {
    /// Children that are not reaped yet, each with its waiter.
    children: HashMap<Pid, oneshot::Sender<ExitStatus>>,
    /// Forks under way. The lock is not held meanwhile, because a fork takes as long as the file system of its program.
    pending: Vec<PendingFork>,
}

/// A fork under way.
#[derive(Debug)]
struct PendingFork {
    /// Pid of the child; 0 until there is one.
    child: Arc<AtomicI32>,
    waiter: oneshot::Sender<ExitStatus>,
}

impl Table {
    /// Tells the waiter of a reaped child; an orphan has none.
    fn record_exit(&mut self, pid: Pid, exit: ExitStatus) {
        let waiter = self
            .children
            .remove(&pid)
            .or_else(|| self.take_pending(pid.as_raw_nonzero().get()));
        if let Some(waiter) = waiter {
            // The waiter may be gone; the child is reaped all the same.
            let _ = waiter.send(exit);
        }
    }

    /// Removes the fork under way that made this child, and returns its waiter; `None` if there is no such fork.
    fn take_pending(&mut self, child: i32) -> Option<oneshot::Sender<ExitStatus>> {
        let known = |fork: &PendingFork| fork.child.load(Ordering::Acquire) == child;
        let index = self.pending.iter().position(known)?;
        Some(self.pending.swap_remove(index).waiter)
    }

    /// Moves a fork that has returned from `pending` to `children`.
    fn finish_fork(&mut self, child: &Arc<AtomicI32>) {
        // The fork is not in `pending` any more if its child has ended already.
        if let Some(index) = self.pending.iter().position(|fork| Arc::ptr_eq(&fork.child, child)) {
            let PendingFork { child, waiter } = self.pending.swap_remove(index);
            if let Some(pid) = Pid::from_raw(child.load(Ordering::Acquire)) {
                self.children.insert(pid, waiter);
            }
        }
    }
}

/// Handle to the reaper; clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reaper {
    table: Arc<Mutex<Table>>,
}

impl Reaper {
    /// Makes this process a subreaper and starts the task that reaps. Call it in a tokio runtime.
    pub(crate) fn start() -> io::Result<Self> {
        // qemu-user has no such call; the tests that run under it have made the process a subreaper (tests/aarch64).
        #[cfg(not(podbridge_qemu_user))]
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        let reaper = Self::default();
        let mut children = signal(SignalKind::child())?;
        let reaping = reaper.clone();
        tokio::spawn(async move {
            loop {
                reaping.reap();
                // SIGCHLD coalesces: after each delivery, reap all children that have ended.
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
            if let Some(exit) = ExitStatus::from_wait(status) {
                table.record_exit(pid, exit);
            }
        }
    }

    /// Forks, and waits until the program is executed. Call it on a thread that may block.
    pub(crate) fn spawn(&self, command: &PreparedCommand) -> Result<Child, ForkError> {
        let (sender, exit) = oneshot::channel();
        let child = Arc::new(AtomicI32::new(0));
        self.lock().pending.push(PendingFork {
            child: child.clone(),
            waiter: sender,
        });
        let forked = {
            // Under qemu-user the child runs before its pid is stored, so nothing may be reaped meanwhile.
            let _not_reaped = cfg!(podbridge_qemu_user).then(|| self.lock());
            fork(command, &child)
        };
        self.lock().finish_fork(&child);
        let forked = forked?;
        let pid = forked.pid;
        forked.wait_for_exec()?;
        Ok(Child { pid, exit })
    }

    /// Makes an orphan that this process has adopted a child as any other; `None` if it is none of this user, or has ended.
    pub(crate) fn adopt(&self, pid: Pid, user: Uid) -> Option<Child> {
        let (sender, exit) = oneshot::channel();
        // Under the lock no child is reaped, so the pid is that of the process that /proc shows.
        let mut table = self.lock();
        let process = proc::process(pid.as_raw_nonzero().get())?;
        if process.parent != getpid().as_raw_nonzero().get() || process.zombie || table.children.contains_key(&pid) {
            return None;
        }
        if proc::user(process.pid) != Some(user.as_raw()) {
            return None;
        }
        table.children.insert(pid, sender);
        Some(Child { pid, exit })
    }

    /// Signals a child; `NotFound` once it is reaped.
    pub(crate) fn signal_leader(&self, pid: Pid, signal: Signal) -> io::Result<()> {
        self.while_unreaped(pid, || kill_process(pid, signal))
    }

    /// Signals the process group that the child leads; `NotFound` once the child is reaped.
    pub(crate) fn signal_group(&self, pid: Pid, signal: Signal) -> io::Result<()> {
        self.while_unreaped(pid, || kill_process_group(pid, signal))
    }

    /// Calls `kill` under the lock, so that the child cannot be reaped meanwhile and its pid stays its own.
    fn while_unreaped(&self, pid: Pid, kill: impl FnOnce() -> rustix::io::Result<()>) -> io::Result<()> {
        let table = self.lock();
        if !table.children.contains_key(&pid) {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(kill()?)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::Receiver;
    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;

    const PID: i32 = 4321;

    /// Returns a table with one fork under way that has no child yet, and its two ends.
    fn pending_fork() -> (Table, Arc<AtomicI32>, Receiver<ExitStatus>) {
        let (waiter, exit) = oneshot::channel();
        let child = Arc::new(AtomicI32::new(0));
        let mut table = Table::default();
        table.pending.push(PendingFork {
            child: child.clone(),
            waiter,
        });
        (table, child, exit)
    }

    #[test]
    fn a_child_that_ends_before_its_fork_returns_is_not_missed() {
        let (mut table, child, mut exit) = pending_fork();
        child.store(PID, Ordering::Release);
        table.record_exit(Pid::from_raw(PID).unwrap(), ExitStatus::Exited(3));
        table.finish_fork(&child);
        assert_eq!(exit.try_recv(), Ok(ExitStatus::Exited(3)));
        assert!(table.children.is_empty() && table.pending.is_empty());
    }

    #[test]
    fn the_exit_of_an_orphan_with_the_same_pid_is_not_the_childs() {
        let (mut table, child, mut exit) = pending_fork();
        let pid = Pid::from_raw(PID).unwrap();
        table.record_exit(pid, ExitStatus::Exited(3));
        child.store(PID, Ordering::Release);
        table.finish_fork(&child);
        assert_eq!(exit.try_recv(), Err(TryRecvError::Empty));
        table.record_exit(pid, ExitStatus::Signaled(9));
        assert_eq!(exit.try_recv(), Ok(ExitStatus::Signaled(9)));
    }

    #[test]
    fn a_fork_without_a_child_leaves_nothing() {
        let (mut table, child, mut exit) = pending_fork();
        table.finish_fork(&child);
        assert_eq!(exit.try_recv(), Err(TryRecvError::Closed));
        assert!(table.children.is_empty() && table.pending.is_empty());
    }
}
