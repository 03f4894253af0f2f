//! What a process holds, read from /proc: memory, descriptors, threads, children, processor time. `scene` compares it before and after an
//! attack.

use std::fs;
use std::time::Duration;

/// Length of a clock tick in /proc/PID/stat on Linux.
const TICK: Duration = Duration::from_millis(10);

/// Numbers that have to be the same before and after an attack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Footprint {
    pub(crate) descriptors: usize,
    pub(crate) threads: usize,
    pub(crate) children: usize,
}

impl Footprint {
    /// Returns the footprint of a process; `None` if it has ended.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let threads = entries(&format!("/proc/{pid}/task"))?;
        let children = threads.iter().filter_map(|thread| {
            let list = fs::read_to_string(format!("/proc/{pid}/task/{thread}/children")).ok()?;
            Some(list.split_whitespace().count())
        });
        Some(Self {
            descriptors: entries(&format!("/proc/{pid}/fd"))?.len(),
            threads: threads.len(),
            children: children.sum(),
        })
    }

    /// Tells whether this process holds no more than `before`.
    pub(crate) fn is_within(self, before: Self) -> bool {
        self.descriptors <= before.descriptors && self.threads <= before.threads && self.children <= before.children
    }
}

fn entries(directory: &str) -> Option<Vec<String>> {
    let entries = fs::read_dir(directory).ok()?;
    Some(
        entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect(),
    )
}

/// Returns the largest resident memory that a process has had, in bytes; `None` if it has ended.
pub(crate) fn peak_memory(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
}

/// Makes the kernel forget the peak of a process: its present memory is the peak now.
pub(crate) fn forget_peak(pid: u32) {
    // The process may have ended.
    let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

/// Returns the processor time that a process has used, threads that have ended included.
pub(crate) fn cpu_time(pid: u32) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    // Fields 14 and 15 of proc(5): user and system time.
    let ticks = fields.get(11)?.parse::<u32>().ok()? + fields.get(12)?.parse::<u32>().ok()?;
    Some(TICK * ticks)
}
