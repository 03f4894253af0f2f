//! Trees over a link that is cut again and again, by bridges that are killed: each copy has to end, and then both sides are the same.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::process::Signal;

use crate::pair::{self, Pair};
use crate::proxy::Proxy;

const WORKERS: usize = 8;
const MOST_CUTS: u64 = 5;
const FILES: usize = 120;
/// A copy that takes so long hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// What happened in all.
#[derive(Debug, Default)]
pub struct Report {
    seed: u64,
    cuts: u64,
    copies: u64,
    bridges_killed: u64,
    given_up: u64,
    different: u64,
    notes: Vec<String>,
}

impl Report {
    pub fn is_clean(&self) -> bool {
        self.given_up + self.different == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.notes.iter().try_for_each(|note| writeln!(f, "{note}"))?;
        let Self { seed, copies, .. } = self;
        writeln!(
            f,
            "seed {seed}: {copies} trees, {} bridges killed, {} given up",
            self.bridges_killed, self.given_up
        )?;
        write!(f, "{} cuts: {} trees differ", self.cuts, self.different)
    }
}

/// Copies trees until the links have been cut `cuts` times.
pub fn run(cuts: u64, seed: u64) -> Report {
    let report = Mutex::new(Report {
        seed,
        ..Report::default()
    });
    let made = AtomicU64::new(0);
    thread::scope(|scope| {
        for seed in (seed..).take(WORKERS) {
            let (report, made) = (&report, &made);
            scope.spawn(move || {
                let (pair, proxy) = Pair::with_proxy(seed);
                work(&pair, &proxy, seed, cuts, made, report);
            });
        }
    });
    report.into_inner().unwrap()
}

fn work(pair: &Pair, proxy: &Proxy, seed: u64, cuts: u64, made: &AtomicU64, report: &Mutex<Report>) {
    let mut rng = Rng::with_seed(seed);
    let mut before = 0;
    let [from, to] = ["from", "to"].map(|name| pair.dir().join(name));
    while made.load(Ordering::SeqCst) < cuts {
        match rng.u8(..4) {
            // From nothing to all, now and then.
            0 => [&from, &to].map(|path| fs::remove_dir_all(path).unwrap_or_default()),
            _ => [(), ()],
        };
        change(&from, &mut rng);
        proxy.cut(rng.u64(1..=MOST_CUTS));
        let remote = |path: &Path| format!("x:{}", path.display());
        let (source, destination) = match rng.bool() {
            true => (from.display().to_string(), remote(&to)),
            false => (remote(&from), to.display().to_string()),
        };
        let mut command = pair.podbridge(&["sync", "--delete", "-q", &source, &destination]);
        let log = pair.dir().join("stderr");
        let child = command
            .stderr(Stdio::from(fs::File::create(&log).unwrap()))
            .spawn()
            .unwrap();
        let mut killed = 0;
        if rng.u8(..4) == 0 {
            thread::sleep(Duration::from_millis(rng.u64(..60)));
            for bridge in pair.bridges() {
                pair::kill(bridge, Signal::KILL);
                killed += 1;
            }
        }
        let ended = wait(child);
        let now = proxy.calm();
        made.fetch_add(now - before, Ordering::SeqCst);
        let mut report = report.lock().unwrap();
        report.copies += 1;
        report.bridges_killed += killed;
        report.cuts += now - before;
        before = now;
        if ended != Some(0) {
            report.given_up += 1;
            let said = fs::read_to_string(&log).unwrap_or_default();
            report
                .notes
                .push(format!("worker {seed}: {source} ended with {ended:?}: {said}"));
        } else if let Some(path) = difference(&look(&from), &look(&to)) {
            report.different += 1;
            report
                .notes
                .push(format!("worker {seed}: {source} differs at {}", path.display()));
        }
    }
}

fn wait(mut child: Child) -> Option<i32> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if let Some(ended) = child.try_wait().unwrap() {
            return ended.code();
        }
        thread::sleep(Duration::from_millis(2));
    }
    pair::kill(child.id(), Signal::KILL);
    child.wait().unwrap();
    None
}

/// Makes a tree, or changes about half of it.
fn change(root: &Path, rng: &mut Rng) {
    fs::create_dir_all(root).unwrap();
    for _ in 0..FILES {
        let directory = (0..rng.usize(..4)).fold(root.to_owned(), |path, _| path.join(format!("d{}", rng.u8(..3))));
        let path = directory.join(format!("f{}", rng.u8(..60)));
        // What was here before goes, whatever it was.
        let _ = fs::remove_file(&path);
        fs::create_dir_all(&directory).unwrap();
        match rng.u8(..12) {
            0 => {}
            1 => symlink(format!("f{}", rng.u8(..60)), &path).unwrap(),
            2 => fs::hard_link(root.join("anchor"), &path).unwrap_or_default(),
            _ => {
                let length = match rng.u8(..20) {
                    0 => rng.usize(..600_000),
                    _ => rng.usize(..8000),
                };
                let mut content = vec![0; length];
                rng.fill(&mut content);
                fs::write(&path, content).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(rng.u32(..0o10000))).unwrap();
            }
        }
    }
    fs::write(root.join("anchor"), [rng.u8(..)]).unwrap();
}

/// Mode, time, number of names, and content or target.
type Seen = (u32, (i64, i64), u64, Vec<u8>);

fn look(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let (mut seen, mut stack) = (BTreeMap::new(), vec![PathBuf::new()]);
    while let Some(path) = stack.pop() {
        let full = root.join(&path);
        let Ok(meta) = full.symlink_metadata() else {
            continue;
        };
        let content = if meta.is_symlink() {
            fs::read_link(&full).unwrap().into_os_string().into_encoded_bytes()
        } else if meta.is_dir() {
            stack.extend(
                fs::read_dir(&full)
                    .unwrap()
                    .map(|entry| path.join(entry.unwrap().file_name())),
            );
            Vec::new()
        } else {
            fs::read(&full).unwrap()
        };
        let names = if meta.is_dir() { 0 } else { meta.nlink() };
        seen.insert(path, (meta.mode(), (meta.mtime(), meta.mtime_nsec()), names, content));
    }
    seen
}

fn difference(a: &BTreeMap<PathBuf, Seen>, b: &BTreeMap<PathBuf, Seen>) -> Option<PathBuf> {
    a.keys()
        .chain(b.keys())
        .find(|path| a.get(*path) != b.get(*path))
        .cloned()
}
