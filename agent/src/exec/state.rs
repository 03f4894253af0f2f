//! The state of one exec, from its reservation to its release, which `registry`, `supervisor`, `attach` and `stdin_writer` share.
//! Each part has a watch or a lock of its own. This file starts and ends nothing.

use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

use rustix::process::Pid;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::spool::{Spool, Store};
use super::stdin::Stdin;
use super::{Command, Digest, ExitRecord, StdinMode};

/// State of one exec.
#[derive(Debug)]
pub struct Exec {
    pub(super) digest: Digest,
    /// Name of the group that `list` shows; empty: none.
    pub(super) session: Vec<u8>,
    pub(super) takes_stdin: bool,
    pub(super) spool: Arc<Spool>,
    pub(super) stdin: Stdin,
    /// `None` until the spawn has been tried; 0 if it failed.
    pub(super) pid: watch::Sender<Option<u32>>,
    /// `warm`, or the reason why a module of Ansible has a new interpreter; empty for other commands. Set before the pid.
    pub(super) python: OnceLock<String>,
    /// `None` until the command has ended.
    pub(super) exit: watch::Sender<Option<ExitRecord>>,
    pub(super) readers: watch::Sender<Readers>,
    /// Reason to end the command; `None` until a client or a rule asks for its end.
    pub(super) cancel: watch::Sender<Option<String>>,
    pub(super) released: watch::Sender<bool>,
    /// The master of the command's terminal; empty if it has none.
    pub(super) terminal: OnceLock<Arc<AsyncFd<OwnedFd>>>,
}

/// How many readers an exec has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Readers {
    pub(super) count: usize,
    /// True once the first reader has attached.
    pub(super) ever_attached: bool,
}

impl Exec {
    pub(super) fn new(command: &Command, store: Arc<Store>) -> Self {
        Self {
            digest: command.digest,
            session: command.session.clone(),
            takes_stdin: command.stdin == StdinMode::Stream,
            spool: Arc::new(Spool::new(command.overflow, store)),
            stdin: Stdin::default(),
            pid: watch::Sender::new(None),
            python: OnceLock::new(),
            exit: watch::Sender::new(None),
            readers: watch::Sender::default(),
            cancel: watch::Sender::new(None),
            released: watch::Sender::new(false),
            terminal: OnceLock::new(),
        }
    }

    /// Waits until the spawn has been tried and returns the process id in the pod; 0 if the spawn failed.
    pub async fn pid(&self) -> u32 {
        let mut pid = self.pid.subscribe();
        let pid = pid.wait_for(Option::is_some).await.expect("the sender lives in self");
        (*pid).unwrap_or_default()
    }

    /// Waits until the command has ended and returns its exit record.
    pub async fn wait(&self) -> ExitRecord {
        let mut exit = self.exit.subscribe();
        let exit = exit.wait_for(Option::is_some).await.expect("the sender lives in self");
        exit.clone().expect("waited for")
    }

    pub(super) fn add_reader(&self) {
        self.readers.send_modify(|readers| {
            *readers = Readers {
                count: readers.count + 1,
                ever_attached: true,
            }
        });
    }

    pub(super) fn remove_reader(&self) {
        self.readers.send_modify(|readers| readers.count -= 1);
    }

    /// Returns the process id while the command runs; `None` before and after.
    pub(super) fn running_pid(&self) -> Option<Pid> {
        match *self.exit.borrow() {
            Some(_) => None,
            None => Pid::from_raw((*self.pid.borrow())? as i32),
        }
    }
}
