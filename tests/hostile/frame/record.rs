//! The worst that was measured in a run: most memory of each kind of process, slowest control operations. `scene` tells it, `main` prints it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Cases whose control operations were the slowest, as many as are printed.
const SLOWEST_CASES: usize = 5;

/// What was measured, each with its case.
#[derive(Debug)]
struct Record {
    memory: BTreeMap<&'static str, (u64, String)>,
    /// Median and longest time of the control operations of each case.
    control: Vec<(Duration, Duration, String)>,
}

static RECORD: Mutex<Record> = Mutex::new(Record {
    memory: BTreeMap::new(),
    control: Vec::new(),
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
pub(crate) fn control(case: &str, median: Duration, longest: Duration) {
    record().control.push((median, longest, case.to_owned()));
}

/// Returns the worst values, one line each.
pub(crate) fn summary() -> Vec<String> {
    let mut record = record();
    record.control.sort();
    let memory = record
        .memory
        .iter()
        .map(|(process, (bytes, case))| format!("most memory of a {process}: {} MiB ({case})", bytes >> 20));
    let control = record.control.iter().rev().take(SLOWEST_CASES);
    let control = control.map(|(median, longest, case)| {
        format!(
            "control operations: {} ms in the median, {} ms at most ({case})",
            median.as_millis(),
            longest.as_millis()
        )
    });
    memory.chain(control).collect()
}
