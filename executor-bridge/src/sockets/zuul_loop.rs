//! The loop by which Zuul starts the bridge of a slot again, `while ! kubectl … port-forward …`: a record of it beside the socket, from
//! which a client knows whether a bridge that is gone will come back. The bridge writes the record when it starts; clients read it.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::process::getppid;

/// Word in the command line of Zuul's loop.
const LOOP_WORD: &[u8] = b"port-forward";

/// Records the parent of this process if it is a loop that starts bridges. The record is a symbolic link that leads nowhere: it is
/// made at once, holds its text in its target, and takes no file that could be half written.
pub(crate) fn record(socket: &Path) -> io::Result<()> {
    let parent = getppid().and_then(|pid| u32::try_from(pid.as_raw_pid()).ok());
    record_of(parent.unwrap_or_default(), socket)
}

/// As `record`, for a process with this number.
pub(crate) fn record_of(pid: u32, socket: &Path) -> io::Result<()> {
    let record = record_path(socket);
    let Some(text) = Some(pid).filter(|pid| is_loop(*pid)).and_then(describe) else {
        return match fs::remove_file(record) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
    };
    if fs::read_link(&record).is_ok_and(|found| found == Path::new(&text)) {
        return Ok(());
    }
    match fs::remove_file(&record) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(text, record)
}

/// Returns whether a bridge may still come to this socket, on which none listens. In Zuul's sandbox, where the directory can only be
/// read, the build runs, and so does its loop. Elsewhere the record decides; without one nobody is known who would start a bridge.
pub(crate) fn may_return(socket: &Path) -> bool {
    let directory = socket.parent().unwrap_or(Path::new("/"));
    let read_only = statvfs(directory).is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::RDONLY));
    read_only || fs::read_link(record_path(socket)).is_ok_and(|text| is_running(&text))
}

fn record_path(socket: &Path) -> PathBuf {
    socket.with_extension("loop")
}

/// Returns whether the recorded process still runs. One of another PID namespace ended with it, or is out of sight.
fn is_running(text: &Path) -> bool {
    let pid = text.to_str().and_then(|text| text.split(' ').next()?.parse().ok());
    pid.and_then(describe).is_some_and(|now| Path::new(&now) == text)
}

/// Returns what identifies a process: its number, the time of its start, and the namespace of the number. `None` if it does not run.
fn describe(pid: u32) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name of the program, in parentheses, may hold spaces. The state is field 3, the start is field 22.
    let mut fields = status.rsplit_once(')')?.1.split_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    let started = fields.nth(18)?;
    let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{pid} {started} {}", namespace.display()))
}

fn is_loop(pid: u32) -> bool {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    command.windows(LOOP_WORD.len()).any(|word| word == LOOP_WORD)
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn only_a_running_loop_brings_a_bridge_back() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("0199756f54f43fe8");
        assert!(!may_return(&socket), "no record");
        let mut child = Command::new("sh")
            .args(["-c", "echo; while read line; do : port-forward; done"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Before its first line it may still be this program.
        child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
        assert!(is_loop(child.id()));
        assert!(!is_loop(std::process::id()));
        let text = describe(child.id()).unwrap();
        symlink(&text, record_path(&socket)).unwrap();
        assert!(may_return(&socket));
        for other in [
            text.replace("pid:[", "pid:[9"),
            text.replacen(' ', " 9", 1),
            "garbage".into(),
        ] {
            fs::remove_file(record_path(&socket)).unwrap();
            symlink(&other, record_path(&socket)).unwrap();
            assert!(!may_return(&socket), "{other}");
        }
        fs::remove_file(record_path(&socket)).unwrap();
        symlink(&text, record_path(&socket)).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!may_return(&socket), "the loop has ended");
        // This process's parent is no loop: the stale record goes.
        record(&socket).unwrap();
        assert!(fs::read_link(record_path(&socket)).is_err());
    }
}
