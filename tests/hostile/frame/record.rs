//! The worst that was measured in a run: most memory of each kind of process, slowest control operation. `scene` tells it, `main` prints it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Worst values, each with the case in which it was measured.
#[derive(Debug)]
struct Record {
    memory: BTreeMap<&'static str, (u64, String)>,
    median: (Duration, String),
    slowest: (Duration, String),
}

static RECORD: Mutex<Record> = Mutex::new(Record {
    memory: BTreeMap::new(),
    median: (Duration::ZERO, String::new()),
    slowest: (Duration::ZERO, String::new()),
});

fn record() -> MutexGuard<'static, Record> {
    RECORD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes the peak of a process.
pub(crate) fn memory(case: &str, process: &'static str, bytes: u64) {
    let mut record = record();
    let worst = record.memory.entry(process).or_default();
    if bytes > worst.0 {
        *worst = (bytes, case.to_owned());
    }
}

/// Notes the times of the control operations of a case.
pub(crate) fn control(case: &str, median: Duration, slowest: Duration) {
    let mut record = record();
    for (worst, now) in [(0, median), (1, slowest)] {
        let worst = if worst == 0 {
            &mut record.median
        } else {
            &mut record.slowest
        };
        if now > worst.0 {
            *worst = (now, case.to_owned());
        }
    }
}

/// Returns the worst values, one line each.
pub(crate) fn summary() -> Vec<String> {
    let record = record();
    let memory = record
        .memory
        .iter()
        .map(|(process, (bytes, case))| format!("most memory of a {process}: {} MiB ({case})", bytes >> 20));
    let times = [
        ("slowest median of control operations", &record.median),
        ("slowest control operation", &record.slowest),
    ];
    let times = times
        .into_iter()
        .map(|(what, (time, case))| format!("{what}: {} ms ({case})", time.as_millis()));
    memory.chain(times).collect()
}
