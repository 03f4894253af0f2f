//! All execs of this agent, by id. An id is reserved before anything is spawned, and it stays fenced after the release, so that
//! a late duplicate of a Start never runs a command twice. `rpc::exec` calls it for each request, `app` when the agent ends.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::process::Signal;
use tokio::sync::watch;

use super::attach::Reader;
use super::preparations::Preparations;
use super::process_table::ProcessTable;
use super::spool::{Offsets, Store};
use super::start::Resources;
use super::state::Exec;
use super::stdin_writer::StdinWriter;
use super::supervisor;
use super::{Command, Error, ExecId, ExitRecord, Size, WarmPython, process_tree};
use crate::sys::limits::InheritedLimits;
use crate::sys::pty;
use crate::sys::reaper::Reaper;

/// Most execs held at once, including those that ended and are not released.
pub(crate) const MAX_EXECS: usize = 4096;
/// Most fenced ids remembered; the oldest is forgotten first.
const MAX_FENCED: usize = 100_000;

/// The processes that a signal reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The command's own process.
    Leader,
    /// The process group of the leader.
    Group,
    /// All descendants, including those that left the group or the session.
    Tree,
}

/// One exec as `list` returns it.
#[derive(Debug)]
pub struct Summary {
    pub id: ExecId,
    /// 0 until the spawn has been tried, and if it failed.
    pub pid: u32,
    pub exit: Option<ExitRecord>,
}

#[derive(Debug, Default)]
struct Table {
    execs: HashMap<ExecId, Arc<Exec>>,
    /// Ids that never start again, each with the reason.
    fenced: HashMap<ExecId, &'static str>,
    /// The fenced ids, oldest first.
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

/// The execs of this agent.
#[derive(Debug)]
pub struct Registry {
    table: Mutex<Table>,
    resources: Resources,
    store: Arc<Store>,
    preparations: Preparations,
    /// Number of execs that have not ended. At zero, the agent may end when idle.
    running: watch::Sender<usize>,
    /// Number of execs released since the agent started.
    released: watch::Sender<u64>,
}

impl Registry {
    /// Makes an empty registry; `limits` are those that commands get.
    pub(crate) fn new(reaper: Reaper, limits: InheritedLimits, warm: WarmPython, store: Store) -> Self {
        Self {
            table: Mutex::default(),
            resources: Resources {
                reaper,
                processes: ProcessTable::default(),
                limits,
                warm,
            },
            store: Arc::new(store),
            preparations: Preparations::default(),
            running: watch::Sender::new(0),
            released: watch::Sender::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no panic while the table is locked")
    }

    /// Returns the number of execs that have not ended, as a watch.
    pub fn running(&self) -> watch::Receiver<usize> {
        self.running.subscribe()
    }

    /// Returns the number of execs released so far, as a watch.
    pub fn released(&self) -> watch::Receiver<u64> {
        self.released.subscribe()
    }

    /// Starts a command, or finds the one that the same request started before; `true` if the command is new. A task of its own runs
    /// the command, so the caller's future may be dropped at any moment.
    pub fn start(self: &Arc<Self>, command: Command) -> Result<(Arc<Exec>, bool), Error> {
        let exec = {
            let mut table = self.lock();
            if let Some(known) = table.execs.get(&command.id) {
                return if known.digest == command.digest {
                    Ok((known.clone(), false))
                } else {
                    Err(Error::Conflict(command.id))
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

    /// Runs `preparation`, and then starts the command as `start` does. Duplicates of the request, also those that arrive at the same
    /// time, wait and then find the exec, so the preparation runs once. `Err` of the preparation: nothing was started.
    pub async fn start_after<E>(
        self: &Arc<Self>,
        command: Command,
        preparation: impl Future<Output = Result<(), E>>,
    ) -> Result<Result<(Arc<Exec>, bool), Error>, E> {
        let _preparation = self.preparations.begin(command.id).await;
        if !self.knows(command.id) {
            preparation.await?;
        }
        Ok(self.start(command))
    }

    /// Returns whether the registry has the exec, or has fenced its id, so that it never starts.
    pub fn knows(&self, id: ExecId) -> bool {
        !matches!(self.find(id), Err(Error::Unknown(_)))
    }

    /// Runs one exec to its end and keeps its output until it is released or its lease ends.
    async fn run(self: Arc<Self>, exec: Arc<Exec>, command: Command) {
        let (id, lease) = (command.id, command.lease);
        supervisor::run(&self.resources, &exec, command).await;
        self.running.send_modify(|running| *running -= 1);
        if supervisor::lease_ends_before_release(&exec, lease).await {
            // The exec has ended, so the release cannot be refused.
            let _ = self.release(id);
        }
        exec.spool.abandon();
    }

    /// Returns the exec with this id. `Err` if it is fenced or unknown.
    pub fn find(&self, id: ExecId) -> Result<Arc<Exec>, Error> {
        let table = self.lock();
        match (table.execs.get(&id), table.fenced.get(&id)) {
            (Some(exec), _) => Ok(exec.clone()),
            (None, Some(reason)) => Err(Error::Fenced { id, reason }),
            (None, None) => Err(Error::Unknown(id)),
        }
    }

    /// Attaches a reader to `exec` at the given offsets. `window` bytes may be lost with its connection. Its output events have at most `max`
    /// bytes.
    pub fn attach(&self, exec: Arc<Exec>, offsets: Offsets, window: u64, max: usize) -> Reader {
        Reader::new(exec, offsets, window, max)
    }

    /// Makes a writer of the exec's stdin, which replaces the previous writer. `Err` if the exec is unknown, fenced, or takes no stdin.
    pub fn stdin(&self, id: ExecId) -> Result<StdinWriter, Error> {
        let exec = self.find(id)?;
        if exec.takes_stdin {
            Ok(StdinWriter::new(id, exec))
        } else {
            Err(Error::NoStdin(id))
        }
    }

    /// Signals a running exec. `Err` if it does not run, or the system refused.
    pub async fn signal(&self, id: ExecId, signal: Signal, scope: Scope) -> Result<(), Error> {
        let leader = self.find(id)?.running_pid().ok_or(Error::NotRunning(id))?;
        let Resources { reaper, processes, .. } = &self.resources;
        let sent = match scope {
            Scope::Leader => reaper.signal_leader(leader, signal),
            Scope::Group => reaper.signal_group(leader, signal),
            Scope::Tree => {
                process_tree::signal(reaper, processes, id, leader, signal).await;
                Ok(())
            }
        };
        sent.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Error::NotRunning(id),
            _ => Error::Signal { id, source },
        })
    }

    /// Changes the size of the exec's terminal. `Err` if it has none.
    pub fn resize(&self, id: ExecId, size: Size) -> Result<(), Error> {
        let exec = self.find(id)?;
        let terminal = exec.terminal.get().ok_or(Error::NoTerminal(id))?;
        pty::resize(terminal.get_ref(), size).map_err(|source| Error::Resize { id, source })
    }

    /// Lists the execs of one session. The empty name is no session: it lists none.
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

    /// Forgets an ended exec and its output. Its id stays fenced; an unknown id is fenced too. `Err` while the exec runs.
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

    /// Asks for the end of the exec's process tree, and does not wait for it. An unknown id is fenced, so that its exec never starts.
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

    /// Asks for the end of every exec, because the agent itself ends.
    pub(crate) fn cancel_all(&self, reason: &str) {
        let ids: Vec<ExecId> = self.lock().execs.keys().copied().collect();
        ids.into_iter().for_each(|id| self.cancel(id, reason));
    }
}
