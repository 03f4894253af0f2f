//! The container's memory limit and how often the kernel killed a process for it, read from the cgroup files that a
//! container sees (version 2, else 1), which `exec` compares before and after a command.

use std::fs;

const OOM_FILES: [&str; 2] = [
    "/sys/fs/cgroup/memory.events",
    "/sys/fs/cgroup/memory/memory.oom_control",
];
const LIMIT_FILES: [&str; 2] = [
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
];

/// Processes killed for memory in this container so far; `None` where the kernel does not tell.
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

/// The limit in bytes; `None` if there is none.
pub(crate) fn memory_limit() -> Option<u64> {
    let limit = LIMIT_FILES
        .iter()
        .find_map(|path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok())?;
    // cgroup v1 writes "no limit" as the largest multiple of the page size.
    (limit < 1 << 62).then_some(limit)
}

#[cfg(test)]
mod tests {
    #[test]
    fn both_versions_are_read() {
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
