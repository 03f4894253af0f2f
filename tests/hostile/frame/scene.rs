//! One case of the suite: the innocent processes, the attack, and what has to hold during and after it. A case makes a scene, tells it
//! which processes to guard, runs its attack in it, and concludes. The roles call it.
//!
//! During the attack: the innocent processes stay below their ceilings, and a control operation is answered quickly. After it: each has
//! as many descriptors, threads and children as before, uses no processor time, and ends when it is told to.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use podbridge_tests::pair::{is_alive, send_signal};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};

use crate::frame::control::Control;
use crate::frame::footprint::{Footprint, cpu_time};
use crate::frame::memory::MemoryWatch;
use crate::frame::output;
use crate::frame::record;

/// Most resident memory of a bridge, an agent and a client under attack, in bytes.
pub(crate) const BRIDGE_CEILING: u64 = 96 << 20;
pub(crate) const AGENT_CEILING: u64 = 64 << 20;
pub(crate) const CLIENT_CEILING: u64 = 64 << 20;
/// Most output that an agent keeps in memory beside that, of all commands together, in bytes.
pub(crate) const SPOOLS: u64 = 64 << 20;

/// Longest median time of a control operation during an attack.
const CONTROL_LIMIT: Duration = Duration::from_millis(250);
/// Fewest control operations of each kind during an attack; odd, so that there is one in the middle.
const CONTROL_RUNS: usize = 5;
/// How long an attack lasts at least.
const ATTACK_TIME: Duration = Duration::from_millis(50);
/// A process whose footprint does not change for this time has settled.
const SETTLE_TIME: Duration = Duration::from_millis(100);
/// How long a process may take to let go of what the attack made it hold. An idle thread of tokio's pool waits 10 seconds.
const RECOVERY_TIME: Duration = Duration::from_secs(20);
/// Time in which the processor time of an idle process is measured, and how much of it it may use: one percent.
const IDLE_WINDOW: Duration = Duration::from_secs(3);
const IDLE_CPU: Duration = Duration::from_millis(30);
/// How often an idle process is measured: the machine may be busy with what the attack left to the kernel.
const IDLE_TRIES: usize = 3;
/// How long a process may take to end after TERM.
const END_TIME: Duration = Duration::from_secs(3);
/// Pause between two looks at a condition that nothing announces.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// One attack at a time, from the start of its innocent processes on, so that no attack disturbs the measurements of another. Cases that
/// mostly wait for time limits run beside each other. What comes after attacks overlaps.
static TURN: RwLock<()> = RwLock::new(());

/// Kept while a case attacks.
#[derive(Debug)]
#[expect(dead_code, reason = "kept until it is dropped")]
enum Admission {
    Alone(RwLockWriteGuard<'static, ()>),
    Shared(RwLockReadGuard<'static, ()>),
}

/// A case: its name and what it does.
pub(crate) type Case = (String, Box<dyn Fn(&Setting) + Send + Sync>);

/// A row of a table of attacks.
pub(crate) trait Row: Clone {
    fn name(&self) -> &'static str;
}

/// Runs a table of rows in an order that the seed chooses. `run` makes a scene, runs rows from the front of the list until it is empty or
/// a row has a fault, and returns the faults. It is called again until all rows have run. With `ROW=text`, only rows whose name contains it
/// run.
pub(crate) fn run_table<R: Row>(
    setting: &Setting,
    rows: &[R],
    run: impl Fn(&Setting, &mut VecDeque<R>) -> Vec<String>,
) {
    let wanted = std::env::var("ROW").unwrap_or_default();
    let mut rows: Vec<R> = rows
        .iter()
        .filter(|row| row.name().contains(&wanted))
        .cloned()
        .collect();
    Rng::with_seed(setting.seed).shuffle(&mut rows);
    let mut rows = VecDeque::from(rows);
    let mut faults = Vec::new();
    while !rows.is_empty() {
        faults.extend(run(setting, &mut rows));
    }
    assert!(faults.is_empty(), "\n  {}\n", faults.join("\n  "));
}

/// What a case is run with.
#[derive(Debug, Clone)]
pub(crate) struct Setting {
    pub(crate) name: String,
    pub(crate) seed: u64,
    /// 1 in a short run, more in a long one: attacks last longer, and their numbers are larger.
    pub(crate) scale: u32,
}

/// An innocent process.
#[derive(Debug)]
struct Guarded {
    name: &'static str,
    pid: u32,
    before: Footprint,
}

/// One case while it runs.
#[derive(Debug)]
pub(crate) struct Scene {
    pub(crate) setting: Setting,
    pub(crate) rng: Rng,
    guarded: Vec<Guarded>,
    memory: Arc<MemoryWatch>,
    /// Files that people may read.
    outputs: Vec<PathBuf>,
    /// The row whose attack runs; empty between rows.
    row: &'static str,
    faults: Vec<String>,
    recovery_time: Duration,
    turn: Option<Admission>,
    concluded: bool,
}

impl Scene {
    /// Waits until no other attack runs.
    pub(crate) fn begin(setting: &Setting) -> Self {
        // A case that failed leaves the turn to the next one.
        let turn = TURN.write().unwrap_or_else(PoisonError::into_inner);
        Self::admitted(setting, Admission::Alone(turn))
    }

    /// Waits until no attack runs that needs the machine alone. For attacks that mostly wait.
    pub(crate) fn begin_beside_others(setting: &Setting) -> Self {
        let turn = TURN.read().unwrap_or_else(PoisonError::into_inner);
        Self::admitted(setting, Admission::Shared(turn))
    }

    fn admitted(setting: &Setting, turn: Admission) -> Self {
        Self {
            setting: setting.clone(),
            rng: Rng::with_seed(setting.seed),
            guarded: Vec::new(),
            memory: MemoryWatch::start(),
            outputs: Vec::new(),
            row: "",
            faults: Vec::new(),
            recovery_time: RECOVERY_TIME,
            turn: Some(turn),
            concluded: false,
        }
    }

    /// Tells whether the present row had a fault. Its processes may be of no use to the next row.
    pub(crate) fn is_spoilt(&self) -> bool {
        !self.faults.is_empty() || self.memory.is_over()
    }

    /// Guards a process from now on. What it holds now is what it may hold after the attack.
    pub(crate) fn guard(&mut self, name: &'static str, pid: u32, ceiling: u64) {
        self.memory.add(name, pid, ceiling);
        let before = settled_footprint(pid).unwrap_or_else(|| panic!("the {name} has ended before the attack"));
        self.guarded.push(Guarded { name, pid, before });
    }

    /// Gives the processes this time, instead of the usual one, to let go of what the attack made them hold.
    pub(crate) fn recovers_within(&mut self, time: Duration) {
        self.recovery_time = time;
    }

    /// Checks at the end what is in this file, if it exists.
    pub(crate) fn watch_output(&mut self, path: impl Into<PathBuf>) {
        self.outputs.push(path.into());
    }

    /// Begins the attack of a row. Several rows may attack the same processes one after the other; faults then name the row, and each row
    /// has memory peaks of its own.
    pub(crate) fn begin_row(&mut self, name: &'static str) {
        self.end_row();
        self.row = name;
    }

    fn end_row(&mut self) {
        for peak in self.memory.take_peaks() {
            record::memory(&self.name(), peak.name, peak.bytes);
            self.expect(peak.bytes <= peak.ceiling, || {
                format!(
                    "the {} had {} MiB resident; its ceiling is {} MiB",
                    peak.name,
                    peak.bytes >> 20,
                    peak.ceiling >> 20
                )
            });
        }
        self.row = "";
    }

    /// Returns the name of the case, and of the row that runs.
    fn name(&self) -> String {
        match self.row {
            "" => self.setting.name.clone(),
            row => format!("{}, {row}", self.setting.name),
        }
    }

    /// Notes that something did not hold.
    pub(crate) fn fault(&mut self, what: impl Into<String>) {
        let what = what.into();
        self.faults.push(match self.row {
            "" => what,
            row => format!("{row}: {what}"),
        });
    }

    /// Notes a fault unless the condition holds.
    pub(crate) fn expect(&mut self, condition: bool, what: impl FnOnce() -> String) {
        if !condition {
            self.fault(what());
        }
    }

    /// Starts an attack and runs control operations beside it, for a moment at least. Returns what `start` returned, which holds the
    /// attack until it is dropped.
    pub(crate) fn attack<T>(&mut self, control: &Control, start: impl FnOnce(&mut Attack<'_>) -> T) -> T {
        self.attack_for(ATTACK_TIME, control, start)
    }

    /// Does what [`Scene::attack`] does, for this time at least.
    pub(crate) fn attack_for<T>(
        &mut self,
        time: Duration,
        control: &Control,
        start: impl FnOnce(&mut Attack<'_>) -> T,
    ) -> T {
        let time = time * self.setting.scale;
        let mut attack = Attack {
            rng: &mut self.rng,
            memory: &self.memory,
            scale: self.setting.scale,
        };
        let attack = start(&mut attack);
        let begun = Instant::now();
        let mut times = Vec::new();
        let mut failed = None;
        while times.len() < CONTROL_RUNS || begun.elapsed() < time {
            match control.run() {
                _ if self.memory.is_over() => break,
                Ok(more) if more.is_empty() => {
                    times.push(Duration::ZERO);
                    // The attack has to last, and there is nothing to ask meanwhile.
                    thread::sleep(POLL_INTERVAL);
                }
                Ok(more) => times.extend(more),
                Err(reason) => {
                    failed = Some(reason);
                    break;
                }
            }
        }
        if let Some(reason) = failed {
            self.fault(format!("a control operation failed during the attack: {reason}"));
        }
        times.sort();
        if let Some(median) = times.get(times.len() / 2) {
            let slowest = times.last().copied().unwrap_or_default();
            record::control(&self.name(), *median, slowest);
            self.expect(*median < CONTROL_LIMIT, || {
                format!(
                    "a control operation took {median:?} during the attack (median of {}, the slowest {slowest:?})",
                    times.len()
                )
            });
        }
        attack
    }

    /// Checks everything that has to hold after the attack; fails the case if anything did not hold.
    pub(crate) fn conclude(self) {
        let faults = self.verdict();
        assert!(faults.is_empty(), "\n  {}\n", faults.join("\n  "));
    }

    /// Tells the processes to end while the attack is still in work, and checks only that they do, and what they have said.
    pub(crate) fn conclude_at_once(mut self) {
        self.end_row();
        let faults = self.check_end_and_outputs();
        assert!(faults.is_empty(), "\n  {}\n", faults.join("\n  "));
    }

    /// Checks everything that has to hold after the attack; returns what did not hold.
    pub(crate) fn verdict(mut self) -> Vec<String> {
        drop(self.turn.take());
        self.end_row();
        self.check_footprints();
        self.check_idle();
        self.check_end_and_outputs()
    }

    fn check_end_and_outputs(&mut self) -> Vec<String> {
        self.concluded = true;
        self.check_end();
        for path in std::mem::take(&mut self.outputs) {
            let text = std::fs::read(&path).unwrap_or_default();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            for fault in output::faults(&text) {
                self.fault(format!("{name}: {fault}"));
            }
        }
        std::mem::take(&mut self.faults)
    }

    fn check_footprints(&mut self) {
        let deadline = Instant::now() + self.recovery_time;
        for Guarded { name, pid, before } in &self.guarded {
            loop {
                let now = Footprint::of(*pid);
                match now {
                    Some(now) if now.is_within(*before) => break,
                    Some(_) if Instant::now() < deadline => thread::sleep(POLL_INTERVAL), // nothing announces it
                    Some(now) => {
                        self.faults
                            .push(format!("the {name} holds {now:?} after the attack, {before:?} before"));
                        break;
                    }
                    None => {
                        self.faults.push(format!("the {name} has ended"));
                        break;
                    }
                }
            }
        }
    }

    fn check_idle(&mut self) {
        let used = |pid| cpu_time(pid).unwrap_or_default();
        let mut busy = Vec::new();
        for _ in 0..IDLE_TRIES {
            let before: Vec<_> = self.guarded.iter().map(|guarded| used(guarded.pid)).collect();
            // Processor time is measured over a time.
            thread::sleep(IDLE_WINDOW);
            busy = self
                .guarded
                .iter()
                .zip(before)
                .filter_map(|(guarded, before)| {
                    let spent = used(guarded.pid).saturating_sub(before);
                    (spent > IDLE_CPU).then(|| format!("the idle {} uses {spent:?} of {IDLE_WINDOW:?}", guarded.name))
                })
                .collect();
            if busy.is_empty() {
                break;
            }
        }
        self.faults.extend(busy);
    }

    fn check_end(&mut self) {
        for Guarded { name, pid, .. } in &self.guarded {
            if !is_alive(*pid) {
                continue;
            }
            let told = Instant::now();
            send_signal(*pid, Signal::TERM);
            while is_alive(*pid) && told.elapsed() < END_TIME {
                // The process may be another process's child.
                thread::sleep(POLL_INTERVAL);
            }
            if is_alive(*pid) {
                self.faults.push(format!("the {name} runs {END_TIME:?} after TERM"));
                send_signal(*pid, Signal::KILL);
            }
        }
    }
}

/// This process attacks with more connections than processes may have at first.
pub(crate) fn allow_many_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, all).unwrap();
}

/// Returns the footprint of a process that has done what it does at its start; `None` if it has ended.
fn settled_footprint(pid: u32) -> Option<Footprint> {
    let begun = Instant::now();
    let mut since = Instant::now();
    let mut before = Footprint::of(pid)?;
    while since.elapsed() < SETTLE_TIME && begun.elapsed() < RECOVERY_TIME {
        // Nothing announces that a process has nothing more to do.
        thread::sleep(POLL_INTERVAL);
        let now = Footprint::of(pid)?;
        if now != before {
            (before, since) = (now, Instant::now());
        }
    }
    Some(before)
}

impl Drop for Scene {
    fn drop(&mut self) {
        assert!(
            self.concluded || thread::panicking(),
            "a case has to conclude its scene"
        );
    }
}

/// What the start of an attack may use.
#[derive(Debug)]
pub(crate) struct Attack<'a> {
    pub(crate) rng: &'a mut Rng,
    pub(crate) scale: u32,
    memory: &'a Arc<MemoryWatch>,
}

impl Attack<'_> {
    /// Starts a client of podbridge, whose memory is watched too. Its stderr is kept.
    pub(crate) fn client(&self, command: &mut Command) -> Client {
        let stderr = tempfile::NamedTempFile::new().unwrap();
        let child = command.stderr(stderr.reopen().unwrap()).spawn().unwrap();
        self.memory.add("client", child.id(), CLIENT_CEILING);
        Client { child, stderr }
    }

    /// Starts a client that writes its output nowhere.
    pub(crate) fn quiet_client(&self, command: &mut Command) -> Client {
        self.client(command.stdout(Stdio::null()))
    }
}

/// A client of podbridge. The drop kills it.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) child: Child,
    stderr: tempfile::NamedTempFile,
}

impl Client {
    /// Returns how the client ended; `None` if it still runs after this time.
    pub(crate) fn end_within(&mut self, time: Duration) -> Option<ExitStatus> {
        let begun = Instant::now();
        loop {
            match self.child.try_wait().unwrap() {
                None if begun.elapsed() < time => thread::sleep(POLL_INTERVAL), // std has no wait with a time limit
                end => return end,
            }
        }
    }

    /// Returns what it has written to stderr.
    pub(crate) fn stderr(&self) -> Vec<u8> {
        std::fs::read(self.stderr.path()).unwrap()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
