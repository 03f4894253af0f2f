//! All execs of this agent by id. An id is reserved before anything is spawned and stays fenced after the end, so that a
//! late duplicate of a Start never runs a command twice.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::process::{Rlimit, Signal};
use tokio::sync::watch;

use super::attach::Reader;
use super::spool::{Offsets, Store};
use super::state::Exec;
use super::stdin_writer::StdinWriter;
use super::supervisor::{self, Resources};
use super::{Command, Error, ExecId, ExitRecord, Size, process_tree};
use crate::sys::pty;
use crate::sys::reaper::Reaper;

/// Execs held at once, ended ones included.
pub(crate) const MAX_EXECS: usize = 4096;
/// Fenced ids remembered; the oldest is forgotten first.
const MAX_FENCED: usize = 100_000;

/// Which processes a signal reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Leader,
    Group,
    Tree,
}

/// One line of `list`.
#[derive(Debug)]
pub struct Summary {
    pub id: ExecId,
    pub pid: u32,
    pub exit: Option<ExitRecord>,
}

#[derive(Debug, Default)]
struct Table {
    execs: HashMap<ExecId, Arc<Exec>>,
    fenced: HashMap<ExecId, &'static str>,
    fenced_order: VecDeque<ExecId>,
}

impl Table {
    fn fence(&mut self, id: ExecId, reason: &'static str) {
        if self.fenced.insert(id, reason).is_none() {
            self.fenced_order.push_back(id);
        }
        if self.fenced_order.len() > MAX_FENCED
            && let Some(oldest) = self.fenced_order.pop_front()
        {
            self.fenced.remove(&oldest);
        }
    }
}

#[derive(Debug)]
pub struct Registry {
    table: Mutex<Table>,
    resources: Resources,
    store: Arc<Store>,
    /// Held by the one who prepares a start.
    preparing: tokio::sync::Mutex<()>,
    /// Execs that have not ended, for the idle end of the agent.
    running: watch::Sender<usize>,
    /// Execs that were released so far.
    released: watch::Sender<u64>,
}

impl Registry {
    /// `nofile` is the descriptor limit that commands get.
    pub(crate) fn new(reaper: Reaper, nofile: Rlimit, store: Store) -> Self {
        Self {
            table: Mutex::default(),
            resources: Resources { reaper, nofile },
            store: Arc::new(store),
            preparing: tokio::sync::Mutex::default(),
            running: watch::Sender::new(0),
            released: watch::Sender::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no panic while the table is locked")
    }

    /// Number of execs that have not ended.
    pub fn running(&self) -> watch::Receiver<usize> {
        self.running.subscribe()
    }

    /// Counts the execs that were released.
    pub fn released(&self) -> watch::Receiver<u64> {
        self.released.subscribe()
    }

    /// Starts a command, or finds the one that the same request started before; true if it is new. The command is run
    /// by a task of its own: the caller may vanish at any moment.
    pub fn start(self: &Arc<Self>, command: Command) -> Result<(Arc<Exec>, bool), Error> {
        let exec = {
            let mut table = self.lock();
            if let Some(known) = table.execs.get(&command.id) {
                return match known.digest == command.digest {
                    true => Ok((known.clone(), false)),
                    false => Err(Error::Conflict(command.id)),
                };
            }
            if let Some(reason) = table.fenced.get(&command.id) {
                return Err(Error::Fenced { id: command.id, reason });
            }
            if table.execs.len() >= MAX_EXECS {
                return Err(Error::Full(MAX_EXECS));
            }
            let exec = Arc::new(Exec::new(&command, self.store.clone()));
            table.execs.insert(command.id, exec.clone());
            exec
        };
        self.running.send_modify(|running| *running += 1);
        tokio::spawn(self.clone().run(exec.clone(), command));
        Ok((exec, true))
    }

    /// As `start`, with something to be done first, and once, however often and at once the same request comes.
    pub async fn start_after<E>(
        self: &Arc<Self>,
        command: Command,
        first: impl Future<Output = Result<(), E>>,
    ) -> Result<Result<(Arc<Exec>, bool), Error>, E> {
        let _alone = self.preparing.lock().await;
        if !self.knows(command.id) {
            first.await?;
        }
        Ok(self.start(command))
    }

    /// It is here, or may not start any more.
    pub fn knows(&self, id: ExecId) -> bool {
        !matches!(self.find(id), Err(Error::Unknown(_)))
    }

    /// Runs one exec to its end and keeps its output until it is released or its lease ends.
    async fn run(self: Arc<Self>, exec: Arc<Exec>, command: Command) {
        let (id, lease) = (command.id, command.lease);
        supervisor::run(&self.resources, &exec, command).await;
        self.running.send_modify(|running| *running -= 1);
        if supervisor::lease_ends_before_release(&exec, lease).await {
            // It has ended, so the release cannot be refused.
            let _ = self.release(id);
        }
        exec.spool.abandon();
    }

    pub fn find(&self, id: ExecId) -> Result<Arc<Exec>, Error> {
        let table = self.lock();
        match (table.execs.get(&id), table.fenced.get(&id)) {
            (Some(exec), _) => Ok(exec.clone()),
            (None, Some(reason)) => Err(Error::Fenced { id, reason }),
            (None, None) => Err(Error::Unknown(id)),
        }
    }

    /// A reader of `exec` from the given offsets; pieces are at most `max` bytes.
    pub fn attach(&self, exec: Arc<Exec>, offsets: Offsets, max: usize) -> Reader {
        Reader::new(exec, offsets, max)
    }

    /// Takes over stdin.
    pub fn stdin(&self, id: ExecId) -> Result<StdinWriter, Error> {
        let exec = self.find(id)?;
        match exec.takes_stdin {
            true => Ok(StdinWriter::new(id, exec)),
            false => Err(Error::NoStdin(id)),
        }
    }

    pub fn signal(&self, id: ExecId, signal: Signal, scope: Scope) -> Result<(), Error> {
        let leader = self.find(id)?.running_pid().ok_or(Error::NotRunning(id))?;
        let sent = match scope {
            Scope::Leader => self.resources.reaper.signal_leader(leader, signal),
            Scope::Group => self.resources.reaper.signal_group(leader, signal),
            Scope::Tree => {
                process_tree::signal(&self.resources.reaper, id, leader, signal);
                Ok(())
            }
        };
        sent.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Error::NotRunning(id),
            _ => Error::Signal { id, source },
        })
    }

    pub fn resize(&self, id: ExecId, size: Size) -> Result<(), Error> {
        let exec = self.find(id)?;
        let terminal = exec.terminal.get().ok_or(Error::NoTerminal(id))?;
        pty::resize(terminal.get_ref(), size).map_err(|source| Error::Resize { id, source })
    }

    /// The execs of one session, and of no other.
    pub fn list(&self, session: &[u8]) -> Vec<Summary> {
        let table = self.lock();
        let of_session = table
            .execs
            .iter()
            .filter(|(_, exec)| exec.session == session && !session.is_empty());
        let summary = |(id, exec): (&ExecId, &Arc<Exec>)| Summary {
            id: *id,
            pid: exec.pid.borrow().unwrap_or_default(),
            exit: exec.exit.borrow().clone(),
        };
        of_session.map(summary).collect()
    }

    /// Forgets an ended exec and its output; the id stays fenced. Unknown ids are fenced too.
    pub fn release(&self, id: ExecId) -> Result<(), Error> {
        let mut table = self.lock();
        if let Some(exec) = table.execs.get(&id) {
            if exec.exit.borrow().is_none() {
                return Err(Error::StillRunning(id));
            }
            exec.released.send_replace(true);
            table.execs.remove(&id);
            self.released.send_modify(|released| *released += 1);
        }
        table.fence(id, "released");
        Ok(())
    }

    /// Ends the exec's tree, in the background; an id not seen yet will never start.
    pub fn cancel(&self, id: ExecId, reason: &str) {
        let mut table = self.lock();
        match table.execs.get(&id) {
            Some(exec) => {
                exec.cancel
                    .send_if_modified(|cancel| cancel.is_none().then(|| *cancel = Some(reason.into())).is_some());
            }
            None => table.fence(id, "cancelled"),
        }
    }

    /// Ends every exec; for the agent's own end.
    pub(crate) fn cancel_all(&self, reason: &str) {
        let ids: Vec<ExecId> = self.lock().execs.keys().copied().collect();
        ids.into_iter().for_each(|id| self.cancel(id, reason));
    }
}
