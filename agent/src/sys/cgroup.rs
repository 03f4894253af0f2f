//! Reads the container's memory limit, and how often the kernel killed a process for it, from the cgroup files that a container sees
//! (version 2, else 1). `exec` compares the number before and after a command.

use std::fs;
use std::path::{Path, PathBuf};

/// Where a container sees its cgroups.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Returns the number of processes that were killed for memory in this container so far; `None` if no file shows it.
pub(crate) fn oom_kills() -> Option<u64> {
    oom_kills_in(&directories())
}

/// Returns the memory limit in bytes; `None` if there is none.
pub(crate) fn memory_limit() -> Option<u64> {
    memory_limit_in(&directories())
}

/// Returns the memory in bytes that the container may still use; `None` if there is no limit, or no file shows the use. What the kernel
/// gives up before it kills a process counts as free.
pub(crate) fn free_memory() -> Option<u64> {
    let directories = directories();
    let limit = memory_limit_in(&directories)?;
    let used = read(&directories, ["memory.current", "memory.usage_in_bytes"])?;
    let parts = read(&directories, ["memory.stat"; 2])?;
    let cache = part(&parts, "total_inactive_file ").or_else(|| part(&parts, "inactive_file "));
    let used: u64 = used.trim().parse().ok()?;
    Some(limit.saturating_sub(used.saturating_sub(cache.unwrap_or_default())))
}

fn part(stat: &str, name: &str) -> Option<u64> {
    stat.lines()
        .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

fn directories() -> Vec<PathBuf> {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    directories_in(Path::new(CGROUPS), &own)
}

/// Returns the directories that may hold this container's files; `own` is the content of /proc/self/cgroup. A privileged container sees the
/// cgroups of the whole node, and its own one below them. Others see theirs as the root, whatever the path is.
fn directories_in(cgroups: &Path, own: &str) -> Vec<PathBuf> {
    let own = own.lines().find_map(|line| line.strip_prefix("0::/"));
    let own = own.filter(|path| !path.is_empty() && !path.split('/').any(|part| part == ".."));
    let below = own.map(|path| cgroups.join(path));
    // The controller of version 1 has a directory of its own.
    below
        .into_iter()
        .chain([cgroups.to_owned(), cgroups.join("memory")])
        .collect()
}

/// Reads the first file of one of these names, of version 2 or 1, that is in one of the directories.
fn read(directories: &[PathBuf], names: [&str; 2]) -> Option<String> {
    let paths = directories
        .iter()
        .flat_map(|directory| names.map(|name| directory.join(name)));
    paths.into_iter().find_map(|path| fs::read_to_string(path).ok())
}

fn oom_kills_in(directories: &[PathBuf]) -> Option<u64> {
    let events = read(directories, ["memory.events", "memory.oom_control"])?;
    events
        .lines()
        .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

fn memory_limit_in(directories: &[PathBuf]) -> Option<u64> {
    let text = read(directories, ["memory.max", "memory.limit_in_bytes"])?;
    // Version 2 writes "no limit" as `max`, version 1 as the largest multiple of the page size.
    let limit: u64 = text.trim().parse().ok()?;
    (limit < 1 << 62).then_some(limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_memory_is_found_by_its_whole_name() {
        let stat = "inactive_anon 1\ntotal_inactive_file 3\ninactive_file 2\n";
        assert_eq!(part(stat, "inactive_file "), Some(2));
        assert_eq!(part(stat, "active_file "), None);
    }

    /// Each row: files with their contents, /proc/self/cgroup, and what was killed and the limit in this container.
    #[test]
    fn both_cgroup_versions_are_read_as_containers_see_them() {
        let events = "low 0\nhigh 0\nmax 3\noom 2\noom_kill 1\noom_group_kill 0\n";
        let control = "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n";
        let pod = "kubepods.slice/pod1/cri-1.scope";
        let below = |name: &str| format!("{pod}/{name}");
        for (what, files, own, kills, limit) in [
            (
                "version 2",
                vec![("memory.events".into(), events), ("memory.max".into(), "1048576\n")],
                "0::/\n".to_owned(),
                Some(1),
                Some(1 << 20),
            ),
            (
                "version 2 without a limit",
                vec![("memory.events".into(), events), ("memory.max".into(), "max\n")],
                "0::/\n".to_owned(),
                Some(1),
                None,
            ),
            (
                "version 2, privileged: the root has no such files",
                vec![(below("memory.events"), events), (below("memory.max"), "4096\n")],
                format!("0::/{pod}\n"),
                Some(1),
                Some(4096),
            ),
            (
                "version 2, a path that is not visible",
                vec![("memory.events".into(), events), ("memory.max".into(), "4096\n")],
                "0::/../../pod2/cri-2.scope\n".to_owned(),
                Some(1),
                Some(4096),
            ),
            (
                "version 1",
                vec![
                    ("memory/memory.oom_control".into(), control),
                    ("memory/memory.limit_in_bytes".into(), "4096\n"),
                ],
                format!("4:memory:/{pod}\n0::/\n"),
                Some(5),
                Some(4096),
            ),
            (
                "version 1 without a limit",
                vec![
                    ("memory/memory.oom_control".into(), "oom_kill_disable 0\nunder_oom 0\n"),
                    ("memory/memory.limit_in_bytes".into(), "9223372036854771712\n"),
                ],
                format!("4:memory:/{pod}\n"),
                None,
                None,
            ),
            ("no cgroups", Vec::new(), String::new(), None, None),
        ] {
            let root = tempfile::tempdir().unwrap();
            for (name, content) in files {
                let path = root.path().join::<String>(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, content).unwrap();
            }
            let directories = directories_in(root.path(), &own);
            assert_eq!(
                (oom_kills_in(&directories), memory_limit_in(&directories)),
                (kills, limit),
                "{what}"
            );
        }
    }
}
