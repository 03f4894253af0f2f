//! Warm Python: runs an Ansible module in a process that was forked from an interpreter which is started already, instead of a new one.
//! It is an acceleration and no semantic: on any doubt, the command runs as any other. This file owns the interpreters, decides when one may be
//! used, and ends them. `start` asks it, `app` ends all interpreters when the last connection has ended. ADR 22.

mod dependencies;
mod form;
mod interpreter;
mod packets;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use podbridge_files::users::Identity;
use rustix::fs::Uid;
use rustix::process::geteuid;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use self::form::Form;
use self::interpreter::{Interpreter, NO_MARK};
use super::mark::Mark;
use super::process::AgentStdio;
use super::{Command, StdinMode};
use crate::env::Variables;
use crate::sys::cgroup;
use crate::sys::limits::InheritedLimits;
use crate::sys::reaper::{Child, Reaper};

/// Most interpreters at once: each has about 15 MB.
const MOST: usize = 2;
/// Time after which an interpreter without a use ends.
const IDLE: Duration = Duration::from_secs(5 * 60);
/// Time without a use after which the waiting process needs as little memory as it can.
const REST: Duration = Duration::from_secs(10);
/// Pause between two looks at the memory and at the time of the last use.
const LOOK: Duration = Duration::from_secs(1);
/// Time after which a start that failed is tried again; each further failure doubles it.
const RETRY: Duration = Duration::from_secs(1);
/// Most times that it is doubled.
const MOST_DOUBLINGS: u32 = 10;
/// Kinds of commands that are remembered.
const MOST_SEEN: usize = 64;
/// Memory of the container that must be free to start an interpreter, and to keep it.
const FREE_TO_START: u64 = 128 << 20;
const FREE_TO_KEEP: u64 = 64 << 20;

const MEMORY_IS_SHORT: &str = "the container has too little free memory";

/// All that the start of an interpreter depends on. The rest is the same for every exec of an agent.
#[derive(Debug, PartialEq, Eq, Hash, Clone)]
struct Key {
    argv: Vec<std::ffi::CString>,
    variables: Variables,
    user: Option<(u32, u32, Vec<u32>)>,
}

#[derive(Debug)]
enum State {
    /// A command of this kind has run once.
    Seen,
    Starting,
    Ready(Arc<Interpreter>),
    Failed {
        reason: String,
        failures: u32,
    },
}

#[derive(Debug)]
struct Slot {
    state: State,
    used: Instant,
}

impl Slot {
    fn new(state: State) -> Self {
        let used = Instant::now();
        Self { state, used }
    }

    fn holds(&self, interpreter: &Arc<Interpreter>) -> bool {
        matches!(&self.state, State::Ready(own) if Arc::ptr_eq(own, interpreter))
    }
}

/// The warm interpreters of an agent; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct WarmPython {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    reaper: Reaper,
    /// Limits that commands get.
    limits: InheritedLimits,
    is_enabled: bool,
    slots: Mutex<HashMap<Key, Slot>>,
}

/// How a command was started.
pub(super) enum Start {
    /// In a process of a warm interpreter.
    Warm(Child, AgentStdio),
    /// Not at all yet. The reason why it has to start as any other; empty: it is no module.
    Cold(String),
}

impl WarmPython {
    pub(crate) fn new(reaper: Reaper, limits: InheritedLimits, is_enabled: bool) -> Self {
        Self {
            shared: Arc::new(Shared {
                reaper,
                limits,
                is_enabled,
                slots: Mutex::default(),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Slot>> {
        self.shared.slots.lock().expect("no panic while it is locked")
    }

    /// Starts the command in a warm interpreter if it is a module that may be. Prepares one for the next command if not. Blocks; call it
    /// in a runtime.
    pub(super) fn start(&self, command: &Command, variables: &Variables, user: Option<&Identity>) -> Start {
        let form = match form::recognise(command) {
            Ok(form) => form,
            Err(reason) => return Start::Cold(reason.unwrap_or_default().into()),
        };
        if !self.shared.is_enabled {
            return Start::Cold("this agent has it switched off".into());
        }
        if command.cold_python {
            return Start::Cold("switched off".into());
        }
        if variables.iter().any(|(name, _)| form::is_start_variable(name)) {
            return Start::Cold("a variable of the environment changes how Python starts".into());
        }
        // A variable as the mark would be the mark of the interpreter.
        if !matches!(Mark::new(command.id), Mark::FileLocks(_)) {
            return Start::Cold(NO_MARK.into());
        }
        let key = Key {
            argv: form.argv.clone(),
            variables: variables.clone(),
            user: user.map(|user| (user.uid, user.gid, user.groups.clone())),
        };
        self.end_those_of_others(&key);
        let free = cgroup::free_memory();
        if free.is_some_and(|free| free < FREE_TO_KEEP) {
            self.end(&key);
            return Start::Cold(MEMORY_IS_SHORT.into());
        }
        let interpreter = match self.ready(&key) {
            Ok(interpreter) => interpreter,
            Err(reason) => {
                if free.is_some_and(|free| free < FREE_TO_START) {
                    return Start::Cold(MEMORY_IS_SHORT.into());
                }
                self.prepare(key, command, form);
                return Start::Cold(reason);
            }
        };
        if let Some(reason) = interpreter.outdated() {
            self.lock().insert(key.clone(), Slot::new(State::Seen));
            self.prepare(key, command, form);
            return Start::Cold(reason);
        }
        let started = interpreter.run(command, user, &form);
        let copies = free.is_none_or(|free| free >= FREE_TO_START);
        self.renew(key, interpreter, command.stdin.clone(), form, copies);
        match started {
            Ok((child, stdio)) => Start::Warm(child, stdio),
            Err(reason) => Start::Cold(reason.into()),
        }
    }

    /// Returns the interpreter for commands with this key. `Err`: the reason why there is none.
    fn ready(&self, key: &Key) -> Result<Arc<Interpreter>, String> {
        let mut slots = self.lock();
        let Some(slot) = slots.get_mut(key) else {
            return Err("the first module of its kind".into());
        };
        match &slot.state {
            State::Ready(interpreter) => {
                slot.used = Instant::now();
                Ok(interpreter.clone())
            }
            State::Seen => Err("the second module of its kind".into()),
            State::Starting => Err("the interpreter is not ready yet".into()),
            State::Failed { reason, .. } => Err(reason.clone()),
        }
    }

    /// Prepares the process of the next module, in the background.
    fn renew(&self, key: Key, interpreter: Arc<Interpreter>, stdin: StdinMode, form: Form, copies: bool) {
        let warm = self.clone();
        spawn_blocking(move || {
            let renewed = interpreter.learn(&form, &stdin, SystemTime::now(), copies);
            if let Err(reason) = renewed {
                tracing::info!(reason, "a warm interpreter ends");
                let mut slots = warm.lock();
                let slot = slots.get_mut(&key);
                if let Some(slot) = slot.filter(|slot| slot.holds(&interpreter)) {
                    *slot = Slot::new(State::Failed { reason, failures: 0 });
                }
            }
        });
    }

    /// Starts an interpreter in the background, unless one is on its way. The first kind of command gets one at once, others when they come
    /// again: a play may give each task an environment of its own.
    fn prepare(&self, key: Key, command: &Command, form: Form) {
        let mut slots = self.lock();
        let failures = match slots.get(&key).map(|slot| (&slot.state, slot.used)) {
            None if slots.is_empty() => 0,
            None => {
                make_room(&mut slots, MOST_SEEN, |_| true);
                slots.insert(key, Slot::new(State::Seen));
                return;
            }
            Some((State::Seen, _)) => 0,
            Some((State::Failed { failures, .. }, when))
                if when.elapsed() >= RETRY * 2u32.pow((*failures).min(MOST_DOUBLINGS)) =>
            {
                failures + 1
            }
            Some(_) => return,
        };
        make_room(&mut slots, MOST, |state| {
            matches!(state, State::Ready(_) | State::Starting)
        });
        slots.insert(key.clone(), Slot::new(State::Starting));
        drop(slots);
        let (warm, command) = (self.clone(), command.clone());
        spawn_blocking(move || {
            let Shared { reaper, limits, .. } = &*warm.shared;
            let user = key.user.as_ref().map_or_else(geteuid, |(uid, ..)| Uid::from_raw(*uid));
            let state = match Interpreter::start(reaper, *limits, &command, user, &form) {
                Ok(interpreter) => State::Ready(Arc::new(interpreter)),
                Err(reason) => State::Failed { reason, failures },
            };
            tracing::info!(?state, "a warm interpreter was started");
            let mut slots = warm.lock();
            // Nobody wants it any more if it was ended meanwhile.
            if let Some(slot) = slots.get_mut(&key) {
                *slot = Slot::new(state);
                Handle::current().spawn(warm.clone().watch(key));
            }
        });
    }

    /// Ends the interpreter when it has no use for long, or memory is short.
    async fn watch(self, key: Key) {
        let mut rested = None;
        loop {
            sleep(LOOK).await;
            let (interpreter, used) = match self.lock().get(&key) {
                Some(Slot {
                    state: State::Ready(interpreter),
                    used,
                }) if used.elapsed() < IDLE => (interpreter.clone(), *used),
                _ => break,
            };
            if used.elapsed() >= REST && rested != Some(used) {
                rested = Some(used);
                spawn_blocking(move || interpreter.rest());
            }
            if cgroup::free_memory().is_some_and(|free| free < FREE_TO_KEEP) {
                break;
            }
        }
        let is_ready = |slot: &mut Slot| matches!(slot.state, State::Ready(_));
        let ended = self
            .lock()
            .extract_if(|known, slot| *known == key && is_ready(slot))
            .count();
        tracing::info!(ended, "a warm interpreter is not watched any more");
    }

    /// Ends the interpreters of other users, except that of the agent's own user: a user that has a process cannot be removed.
    fn end_those_of_others(&self, key: &Key) {
        self.lock()
            .retain(|known, slot| known.user.is_none() || known.user == key.user || matches!(slot.state, State::Seen));
    }

    fn end(&self, key: &Key) {
        self.lock().remove(key);
    }

    /// Ends all interpreters.
    pub(crate) fn end_all(&self) {
        self.lock().clear();
    }
}

/// Removes the slots that were not used for longest, so that one more makes `most` of those that count.
fn make_room(slots: &mut HashMap<Key, Slot>, most: usize, counts: impl Fn(&State) -> bool) {
    while slots.values().filter(|slot| counts(&slot.state)).count() >= most {
        let counted = slots.iter().filter(|(_, slot)| counts(&slot.state));
        let Some(oldest) = counted.min_by_key(|(_, slot)| slot.used).map(|(key, _)| key.clone()) else {
            return;
        };
        slots.remove(&oldest);
    }
}
