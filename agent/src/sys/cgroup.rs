//! Reads the container's memory limit, and how often the kernel killed a process for it, from the cgroup files that a container sees
//! (version 2, else 1). `exec` compares the number before and after a command.

use std::fs;

/// Files with an `oom_kill` line: cgroup version 2, then 1.
const OOM_FILES: [&str; 2] = [
    "/sys/fs/cgroup/memory.events",
    "/sys/fs/cgroup/memory/memory.oom_control",
];
/// Files with the memory limit: cgroup version 2, then 1.
const LIMIT_FILES: [&str; 2] = [
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
];

/// Returns the number of processes that were killed for memory in this container so far; `None` if no file shows it.
pub(crate) fn oom_kills() -> Option<u64> {
    OOM_FILES
        .iter()
        .find_map(|path| oom_kill_count(&fs::read_to_string(path).ok()?))
}

fn oom_kill_count(events: &str) -> Option<u64> {
    events
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// Returns the memory limit in bytes; `None` if there is none.
pub(crate) fn memory_limit() -> Option<u64> {
    let limit = LIMIT_FILES
        .iter()
        .find_map(|path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok())?;
    // cgroup version 1 writes "no limit" as the largest multiple of the page size.
    (limit < 1 << 62).then_some(limit)
}

#[cfg(test)]
mod tests {
    #[test]
    fn both_cgroup_versions_are_read() {
        assert_eq!(
            super::oom_kill_count("low 0\nhigh 0\nmax 3\noom 2\noom_kill 1\noom_group_kill 0\n"),
            Some(1)
        );
        assert_eq!(
            super::oom_kill_count("oom_kill_disable 0\nunder_oom 0\noom_kill 5\n"),
            Some(5)
        );
        assert_eq!(super::oom_kill_count("oom_kill_disable 0\nunder_oom 0\n"), None);
    }
}
