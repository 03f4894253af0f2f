//! Copies of trees over links that are cut, through bridges that are killed. Each copy has to end, and both trees have to be equal then.
//! The program `soak` and `process/sync.rs` call it.

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

/// Copies at once.
const WORKERS: usize = 8;
/// Most cuts under one copy.
const MAX_CUTS: u64 = 5;
/// Files that each change of a tree writes, at most.
const FILES: usize = 120;
/// A copy that takes longer counts as hung.
const COPY_TIMEOUT: Duration = Duration::from_secs(120);

/// Sums over all workers.
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
                run_worker(&pair, &proxy, seed, cuts, made, report);
            });
        }
    });
    report.into_inner().unwrap()
}

fn run_worker(pair: &Pair, proxy: &Proxy, seed: u64, cuts: u64, made: &AtomicU64, report: &Mutex<Report>) {
    let mut rng = Rng::with_seed(seed);
    let mut before = 0;
    let [from, to] = ["from", "to"].map(|name| pair.dir().join(name));
    while made.load(Ordering::SeqCst) < cuts {
        match rng.u8(..4) {
            // One copy in four begins with nothing on both sides.
            0 => [&from, &to].map(|path| fs::remove_dir_all(path).unwrap_or_default()),
            _ => [(), ()],
        };
        change(&from, &mut rng);
        proxy.allow_cuts(rng.u64(1..=MAX_CUTS));
        let remote = |path: &Path| format!("x:{}", path.display());
        let (source, destination) = if rng.bool() {
            (from.display().to_string(), remote(&to))
        } else {
            (remote(&from), to.display().to_string())
        };
        let mut command = pair.podbridge(&[
            "sync",
            "--delete",
            "--privileged",
            "--preserve-root-attributes",
            "-q",
            &source,
            &destination,
        ]);
        let log = pair.dir().join("stderr");
        let child = command
            .stderr(Stdio::from(fs::File::create(&log).unwrap()))
            .spawn()
            .unwrap();
        let mut killed = 0;
        if rng.u8(..4) == 0 {
            // The bridge has to die at a random moment of the copy.
            thread::sleep(Duration::from_millis(rng.u64(..60)));
            for bridge in pair.bridges() {
                pair::send_signal(bridge, Signal::KILL);
                killed += 1;
            }
        }
        let code = wait_for_exit(child);
        let now = proxy.stop_cutting();
        made.fetch_add(now - before, Ordering::SeqCst);
        let mut report = report.lock().unwrap();
        report.copies += 1;
        report.bridges_killed += killed;
        report.cuts += now - before;
        before = now;
        if code != Some(0) {
            report.given_up += 1;
            let message = fs::read_to_string(&log).unwrap_or_default();
            report
                .notes
                .push(format!("worker {seed}: {source} ended with {code:?}: {message}"));
        } else if let Some(path) = first_difference(&snapshot(&from), &snapshot(&to)) {
            report.different += 1;
            report
                .notes
                .push(format!("worker {seed}: {source} differs at {}", path.display()));
        }
    }
}

/// Returns the exit code; `None` if the copy hung or was killed.
fn wait_for_exit(mut child: Child) -> Option<i32> {
    let started = Instant::now();
    while started.elapsed() < COPY_TIMEOUT {
        if let Some(ended) = child.try_wait().unwrap() {
            return ended.code();
        }
        // A process has no wait with a timeout.
        thread::sleep(Duration::from_millis(2));
    }
    pair::send_signal(child.id(), Signal::KILL);
    child.wait().unwrap();
    None
}

/// Makes a tree, or changes about half of it.
fn change(root: &Path, rng: &mut Rng) {
    fs::create_dir_all(root).unwrap();
    for _ in 0..FILES {
        let directory = (0..rng.usize(..4)).fold(root.to_owned(), |path, _| path.join(format!("d{}", rng.u8(..3))));
        let path = directory.join(format!("f{}", rng.u8(..60)));
        // A file, a link or a directory may be in the way.
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

/// Mode, modification time, number of hard links, and content or link target.
type Entry = (u32, (i64, i64), u64, Vec<u8>);

/// Returns all entries below `root`.
fn snapshot(root: &Path) -> BTreeMap<PathBuf, Entry> {
    let (mut entries, mut stack) = (BTreeMap::new(), vec![PathBuf::new()]);
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
        entries.insert(path, (meta.mode(), (meta.mtime(), meta.mtime_nsec()), names, content));
    }
    entries
}

/// Returns the first path that is not the same in both; `None` if the trees are equal.
fn first_difference(a: &BTreeMap<PathBuf, Entry>, b: &BTreeMap<PathBuf, Entry>) -> Option<PathBuf> {
    a.keys()
        .chain(b.keys())
        .find(|path| a.get(*path) != b.get(*path))
        .cloned()
}
