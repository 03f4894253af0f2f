//! Reads /proc: parents, groups, sessions, start times and environments of processes. Every answer may be stale when it is used; a
//! pid is the same process only if its start time is the same. `exec::process_tree` and `app` call it.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;

/// One process, as /proc/PID/stat showed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: i32,
    pub(crate) parent: i32,
    pub(crate) group: i32,
    pub(crate) session: i32,
    pub(crate) zombie: bool,
    /// Start time in clock ticks since boot.
    pub(crate) start: u64,
}

/// Returns all processes that this process can see; none where /proc is hidden.
pub(crate) fn processes() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(process).collect()
}

/// Returns one process; `None` if there is none with this pid.
pub(crate) fn process(pid: i32) -> Option<Process> {
    parse_stat(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// Returns the user that a process runs as; `None` if there is none with this pid.
pub(crate) fn user(pid: i32) -> Option<u32> {
    Some(fs::metadata(format!("/proc/{pid}")).ok()?.uid())
}

fn parse_stat(stat: &[u8]) -> Option<Process> {
    // The name is in parentheses and may contain more of them: the last one ends it.
    let text = String::from_utf8_lossy(stat);
    let (head, tail) = text.rsplit_once(')')?;
    let pid = head.split(' ').next()?.parse().ok()?;
    let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse().ok();
    Some(Process {
        pid,
        parent: number(1)?,
        group: number(2)?,
        session: number(3)?,
        zombie: matches!(fields.first(), Some(&("Z" | "X"))),
        start: fields.get(19)?.parse().ok()?,
    })
}

/// Returns the first `NAME=value` with this name in the environment that a process was started with; `None` if there is none, or the agent
/// may not read it.
pub(crate) fn environment_entry(pid: i32, name: &str) -> Option<Vec<u8>> {
    let environ = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let mut entries = environ.split(|byte| *byte == 0);
    let has_name = |entry: &&[u8]| {
        entry
            .strip_prefix(name.as_bytes())
            .is_some_and(|rest| rest.starts_with(b"="))
    };
    entries.find(has_name).map(<[u8]>::to_vec)
}

/// Returns the arguments that a process was started with; none if the agent may not read them.
pub(crate) fn arguments(pid: i32) -> Vec<OsString> {
    nul_separated(&fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default())
}

/// Returns the environment that a process was started with, as `NAME=value`. `Err` if the agent may not read it.
pub(crate) fn environment(pid: i32) -> io::Result<Vec<OsString>> {
    Ok(nul_separated(&fs::read(format!("/proc/{pid}/environ"))?))
}

fn nul_separated(bytes: &[u8]) -> Vec<OsString> {
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    let entries = bytes.split(|byte| *byte == 0);
    entries.map(|entry| OsString::from_vec(entry.to_vec())).collect()
}

/// Limit of a process; `None` is infinite.
pub(crate) type Limit = Option<u64>;

/// Returns the soft and the hard limit on file locks; `None` if /proc does not show them.
pub(crate) fn file_lock_limits(pid: i32) -> Option<(Limit, Limit)> {
    parse_file_lock_limits(&fs::read_to_string(format!("/proc/{pid}/limits")).ok()?)
}

fn parse_file_lock_limits(limits: &str) -> Option<(Limit, Limit)> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max file locks"))?;
    let mut words = line.split_ascii_whitespace();
    let mut limit = || match words.next()? {
        "unlimited" => Some(None),
        number => number.parse().ok().map(Some),
    };
    Some((limit()?, limit()?))
}

/// Returns the kernel's boot id; empty where /proc is hidden.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_on_file_locks_are_read() {
        let line = |soft: &str, hard: &str| {
            format!("Max pending signals  9 9 signals\nMax file locks            {soft:20} {hard:20} locks     \n")
        };
        assert_eq!(
            parse_file_lock_limits(&line("unlimited", "unlimited")),
            Some((None, None))
        );
        assert_eq!(
            parse_file_lock_limits(&line("4611686018427387904", "unlimited")),
            Some((Some(1 << 62), None))
        );
        assert_eq!(parse_file_lock_limits("Max open files 1 2 files\n"), None);
        assert!(file_lock_limits(std::process::id() as i32).is_some());
    }

    #[test]
    fn a_name_may_hold_spaces_and_parentheses() {
        let stat = b"42 (a) R (b) S 7 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 991 1 1";
        let process = parse_stat(stat).unwrap();
        assert_eq!(
            process,
            Process {
                pid: 42,
                parent: 7,
                group: 42,
                session: 42,
                zombie: false,
                start: 991
            }
        );
    }

    #[test]
    fn this_process_is_seen() {
        let me = std::process::id() as i32;
        assert!(processes().iter().any(|p| p.pid == me && p.start > 0 && !p.zombie));
        assert_eq!(parse_stat(b"nonsense"), None);
    }
}
