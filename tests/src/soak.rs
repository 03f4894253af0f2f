//! Commands over a link that is cut again and again, by bridges that are killed: what goes in and comes out is compared with what was meant, and a
//! counter says how often the command ran.

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

use crate::pair;
use crate::place::Place;
use crate::proxy::Proxy;

/// Of each stream of a run.
const LONGEST: usize = 1 << 20;
const MOST_CUTS: u64 = 5;
/// A run that takes so long hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// What happened in all.
#[derive(Debug, Default)]
pub struct Report {
    seed: u64,
    cuts: u64,
    bridges_killed: u64,
    runs: u64,
    lost_bytes: u64,
    double_runs: u64,
    false_successes: u64,
    /// Runs without a result: honest, but the agent lived all the time.
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

/// Runs commands until the links have been cut `cuts` times; each worker has a place of its own, made with its seed.
pub fn run<P: Place>(cuts: u64, seed: u64, workers: u64, place: impl Fn(u64) -> (P, Proxy) + Sync) -> Report {
    let report = Mutex::new(Report {
        seed,
        ..Report::default()
    });
    let made = AtomicU64::new(0);
    thread::scope(|scope| {
        for seed in (seed..).take(workers as usize) {
            let (report, made, place) = (&report, &made, &place);
            scope.spawn(move || {
                let (place, proxy) = place(seed);
                work(&place, &proxy, seed, cuts, made, report);
            });
        }
    });
    report.into_inner().unwrap()
}

fn work(place: &impl Place, proxy: &Proxy, seed: u64, cuts: u64, made: &AtomicU64, report: &Mutex<Report>) {
    let mut rng = Rng::with_seed(seed);
    let mut before = 0;
    while made.load(Ordering::SeqCst) < cuts {
        let run = Run::new(place, &mut rng);
        proxy.cut(rng.u64(1..=MOST_CUTS));
        let result = run.carry_out(place);
        let now = proxy.calm();
        made.fetch_add(now - before, Ordering::SeqCst);
        let seen = run.look(place);
        place.remove(&run.dir);
        let mut report = report.lock().unwrap();
        report.runs += 1;
        report.bridges_killed += run.bridges_killed.load(Ordering::SeqCst);
        report.cuts += now - before;
        before = now;
        run.judge(result, seen, &mut report);
    }
}

/// One command: writes two files to its output, takes its input into a third, leaves a line in a fourth.
struct Run {
    id: u64,
    code: i32,
    /// It does not exit, it is killed: then the code says so.
    killed: bool,
    bridge_dies_after: Option<Duration>,
    bridges_killed: AtomicU64,
    stdin: Vec<u8>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    dir: PathBuf,
}

/// Exit code and output; `None` if it hung.
type Outcome = Option<(Option<i32>, Vec<u8>, Vec<u8>)>;

impl Run {
    fn new(place: &impl Place, rng: &mut Rng) -> Self {
        let id = rng.u64(..);
        let dir = place.directory().join(format!("run-{id:x}"));
        place.make_directory(&dir);
        let mut data = || {
            // Short ones as often as long ones.
            let length = rng.usize(0..=LONGEST) >> rng.u8(0..20);
            let mut data = vec![0; length];
            rng.fill(&mut data);
            data
        };
        let (stdin, stdout, stderr) = (data(), data(), data());
        place.write(&dir.join("stdout"), &stdout);
        place.write(&dir.join("stderr"), &stderr);
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

    fn carry_out(&self, place: &impl Place) -> Outcome {
        let end = match self.killed {
            true => "kill -KILL $$".to_owned(),
            false => format!("exit {}", self.code),
        };
        let dir = self.dir.display();
        let script = format!("cd {dir}; echo x >> counter; cat stdout & cat stderr >&2 & cat > stdin; wait; {end}");
        let mut command = place.exec(&["sh", "-c", &script]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        thread::scope(|scope| {
            // A client that gave up has closed it.
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
                thread::sleep(pause);
                for bridge in place.bridges() {
                    pair::kill(bridge, Signal::KILL);
                    self.bridges_killed.fetch_add(1, Ordering::SeqCst);
                }
            }
            let begun = Instant::now();
            let mut ended = None;
            while ended.is_none() && begun.elapsed() < PATIENCE {
                thread::sleep(Duration::from_millis(2));
                ended = child.try_wait().unwrap();
            }
            if ended.is_none() {
                pair::kill(child.id(), Signal::KILL);
            }
            child.wait().unwrap();
            let output = (stdout.join().unwrap(), stderr.join().unwrap());
            ended.map(|ended| (ended.code(), output.0, output.1))
        })
    }

    /// How often it ran, and its input as it got it.
    fn look(&self, place: &impl Place) -> (usize, Vec<u8>) {
        let lines = place.read(&self.dir.join("counter")).unwrap_or_default();
        (lines.len() / 2, place.read(&self.dir.join("stdin")).unwrap_or_default())
    }

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
            let said = String::from_utf8_lossy(&stderr[common(&self.stderr, &stderr)..]).into_owned();
            report.notes.push(format!(
                "run {id:x} ended with {code:?} instead of {}: {said}",
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
        for (name, meant, got) in streams {
            let right = common(meant, &got);
            let wrong = meant.len().max(got.len()) - right;
            if wrong > 0 {
                lost += wrong as u64;
                report.notes.push(format!(
                    "run {id:x}: {name} differs from byte {right} of {}",
                    meant.len()
                ));
            }
        }
        report.lost_bytes += lost;
        report.false_successes += u64::from(lost > 0 || runs == 0);
    }
}

/// Length of the common beginning.
fn common(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
