//! Commands over links that are cut, through bridges that are killed. Each run compares input and output with the expected bytes, and a
//! file counts how often the command ran. The program `soak` and `process/main.rs` call it.

use std::fmt;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::process::Signal;

use crate::machine::Machine;
use crate::pair;
use crate::proxy::Proxy;

/// Longest stream of a run, in bytes.
const MAX_LENGTH: usize = 1 << 20;
/// Most cuts under one run.
const MAX_CUTS: u64 = 5;
/// A run that takes longer counts as hung.
const RUN_TIMEOUT: Duration = Duration::from_secs(120);

/// Sums over all workers.
#[derive(Debug, Default)]
pub struct Report {
    seed: u64,
    cuts: u64,
    bridges_killed: u64,
    runs: u64,
    lost_bytes: u64,
    double_runs: u64,
    false_successes: u64,
    /// Runs without a result. The report of such a run is honest, but the agent lived, so there should have been a result.
    given_up: u64,
    notes: Vec<String>,
}

impl Report {
    pub fn is_clean(&self) -> bool {
        self.lost_bytes + self.double_runs + self.false_successes + self.given_up == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.notes.iter().try_for_each(|note| writeln!(f, "{note}"))?;
        let Self {
            seed, runs, given_up, ..
        } = self;
        let killed = self.bridges_killed;
        writeln!(
            f,
            "seed {seed}: {runs} runs, {killed} bridges killed, {given_up} given up"
        )?;
        write!(
            f,
            "{} cuts: {} lost bytes, {} double runs, {} false successes",
            self.cuts, self.lost_bytes, self.double_runs, self.false_successes
        )
    }
}

/// Runs commands until the links have been cut `cuts` times. Each worker makes a machine of its own, with its seed.
pub fn run<M: Machine>(cuts: u64, seed: u64, workers: u64, machine: impl Fn(u64) -> (M, Proxy) + Sync) -> Report {
    let report = Mutex::new(Report {
        seed,
        ..Report::default()
    });
    let made = AtomicU64::new(0);
    thread::scope(|scope| {
        for seed in (seed..).take(workers as usize) {
            let (report, made, machine) = (&report, &made, &machine);
            scope.spawn(move || {
                let (machine, proxy) = machine(seed);
                run_worker(&machine, &proxy, seed, cuts, made, report);
            });
        }
    });
    report.into_inner().unwrap()
}

fn run_worker(machine: &impl Machine, proxy: &Proxy, seed: u64, cuts: u64, made: &AtomicU64, report: &Mutex<Report>) {
    let mut rng = Rng::with_seed(seed);
    let mut before = 0;
    while made.load(Ordering::SeqCst) < cuts {
        let run = Run::new(machine, &mut rng);
        proxy.allow_cuts(rng.u64(1..=MAX_CUTS));
        let outcome = run.execute(machine);
        let now = proxy.stop_cutting();
        made.fetch_add(now - before, Ordering::SeqCst);
        let observed = run.observe(machine);
        machine.remove(&run.dir);
        let mut report = report.lock().unwrap();
        report.runs += 1;
        report.bridges_killed += run.bridges_killed.load(Ordering::SeqCst);
        report.cuts += now - before;
        before = now;
        run.judge(outcome, observed, &mut report);
    }
}

/// One command. It copies two files to its stdout and stderr, its stdin to a third file, and adds a line to a fourth one.
struct Run {
    id: u64,
    code: i32,
    /// The command ends by SIGKILL, and `code` is 128 + 9.
    killed: bool,
    bridge_dies_after: Option<Duration>,
    bridges_killed: AtomicU64,
    stdin: Vec<u8>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    dir: PathBuf,
}

/// Exit code, stdout and stderr; `None` if the run hung.
type Outcome = Option<(Option<i32>, Vec<u8>, Vec<u8>)>;

impl Run {
    fn new(machine: &impl Machine, rng: &mut Rng) -> Self {
        let id = rng.u64(..);
        let dir = machine.directory().join(format!("run-{id:x}"));
        machine.make_directory(&dir);
        let mut data = || {
            // Each order of magnitude is as frequent as the others.
            let length = rng.usize(0..=MAX_LENGTH) >> rng.u8(0..20);
            let mut data = vec![0; length];
            rng.fill(&mut data);
            data
        };
        let (stdin, stdout, stderr) = (data(), data(), data());
        machine.write(&dir.join("stdout"), &stdout);
        machine.write(&dir.join("stderr"), &stderr);
        let killed = rng.u8(..8) == 0;
        Self {
            id,
            code: if killed { 128 + 9 } else { i32::from(rng.u8(0..100)) },
            killed,
            bridge_dies_after: (rng.u8(..4) == 0).then(|| Duration::from_millis(rng.u64(..60))),
            bridges_killed: AtomicU64::new(0),
            stdin,
            stdout,
            stderr,
            dir,
        }
    }

    fn execute(&self, machine: &impl Machine) -> Outcome {
        let end = if self.killed {
            "kill -KILL $$".to_owned()
        } else {
            format!("exit {}", self.code)
        };
        let dir = self.dir.display();
        let script = format!("cd {dir}; echo x >> counter; cat stdout & cat stderr >&2 & cat > stdin; wait; {end}");
        let mut command = machine.exec(&["sh", "-c", &script]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        thread::scope(|scope| {
            // A client that gave up has closed its end: the error is no news.
            scope.spawn(move || drop(stdin.write_all(&self.stdin)));
            let stdout = scope.spawn(move || {
                let mut all = Vec::new();
                stdout.read_to_end(&mut all).map(|_| all).unwrap()
            });
            let stderr = scope.spawn(move || {
                let mut all = Vec::new();
                stderr.read_to_end(&mut all).map(|_| all).unwrap()
            });
            if let Some(pause) = self.bridge_dies_after {
                // The bridge has to die at a random moment of the run.
                thread::sleep(pause);
                for bridge in machine.bridges() {
                    pair::send_signal(bridge, Signal::KILL);
                    self.bridges_killed.fetch_add(1, Ordering::SeqCst);
                }
            }
            let started = Instant::now();
            let mut ended = None;
            while ended.is_none() && started.elapsed() < RUN_TIMEOUT {
                // A process has no wait with a timeout.
                thread::sleep(Duration::from_millis(2));
                ended = child.try_wait().unwrap();
            }
            if ended.is_none() {
                pair::send_signal(child.id(), Signal::KILL);
            }
            child.wait().unwrap();
            let output = (stdout.join().unwrap(), stderr.join().unwrap());
            ended.map(|ended| (ended.code(), output.0, output.1))
        })
    }

    /// Returns how often the command ran, and the input that it received.
    fn observe(&self, machine: &impl Machine) -> (usize, Vec<u8>) {
        let lines = machine.read(&self.dir.join("counter")).unwrap_or_default();
        (
            lines.len() / 2,
            machine.read(&self.dir.join("stdin")).unwrap_or_default(),
        )
    }

    /// Adds what is wrong with a run to the report.
    fn judge(&self, outcome: Outcome, (runs, stdin): (usize, Vec<u8>), report: &mut Report) {
        let id = self.id;
        if runs > 1 {
            report.double_runs += 1;
            report.notes.push(format!("run {id:x} ran {runs} times"));
        }
        let Some((code, stdout, stderr)) = outcome else {
            report.given_up += 1;
            report.notes.push(format!("run {id:x} hung"));
            return;
        };
        if code != Some(self.code) {
            report.given_up += 1;
            let message = String::from_utf8_lossy(&stderr[common_prefix(&self.stderr, &stderr)..]).into_owned();
            report.notes.push(format!(
                "run {id:x} ended with {code:?} instead of {}: {message}",
                self.code
            ));
            return;
        }
        let streams = [
            ("stdin", &self.stdin, stdin),
            ("stdout", &self.stdout, stdout),
            ("stderr", &self.stderr, stderr),
        ];
        let mut lost = 0;
        for (name, expected, got) in streams {
            let right = common_prefix(expected, &got);
            let wrong = expected.len().max(got.len()) - right;
            if wrong > 0 {
                lost += wrong as u64;
                report.notes.push(format!(
                    "run {id:x}: {name} differs from byte {right} of {}",
                    expected.len()
                ));
            }
        }
        report.lost_bytes += lost;
        report.false_successes += u64::from(lost > 0 || runs == 0);
    }
}

/// Returns the length of the common beginning.
fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
