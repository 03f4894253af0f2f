//! The shell scripts that find the agent in a container or copy it there. They need the programs `sh`, `cat` and `chmod` alone. Owns
//! their text and the format of their output. `exec_proxy` and `inject` run them.
//!
//! The scripts hold file descriptors 1 and 2 open to the end, as copies 8 and 9: containerd ends stdin as soon as one of the two is
//! closed, and then a truncated input looks complete (exit code 0).
//!
//! A script writes a binary to a new file name. The bridge reads the file back and compares it, and only then the file becomes
//! executable. The executable bit therefore marks a complete file: several bridges may write at once, and none runs the incomplete
//! file of another. A lock of the agent makes sure that one agent serves.

/// Finds an agent. Arguments: `$1` --start or nothing, `$2` a random name, `$3` directories not to try again (`:/tmp:`), then tags of
/// known binaries. Becomes the proxy if there is an agent, else prints [`FIND_MARKER`] and a directory for one (see [`FindReport`]).
pub(super) const FIND: &str = r#"
exec 8>&1 9>&2
umask 077
start=$1 random=$2 skip=$3
shift 3
command -v podbridge-agent >/dev/null 2>&1 && exec podbridge-agent proxy $start
[ -x /opt/podbridge/podbridge-agent ] && exec /opt/podbridge/podbridge-agent proxy $start
uid=
{ while read -r key _ value _; do case $key in Uid:) uid=$value; break;; esac; done </proc/self/status; } 2>/dev/null
for base in /tmp /dev/shm /var/tmp "$HOME" /run "$PWD"; do
  base=${base%/}
  for tag; do
    for file in "$base/.podbridge-$uid/podbridge-agent-$tag".* "$base/podbridge-agent-$tag".*; do
      [ -f "$file" ] && [ -x "$file" ] && [ -O "$file" ] 2>/dev/null || continue
      exec "$file" proxy $start --socket "$base/.podbridge-$uid/agent-${tag##*-}.sock"
    done
  done
done
echo "podbridge-find/1"
[ -n "$start" ] || exit 0
echo "machine $(uname -m 2>/dev/null)"
for base in /tmp /dev/shm /var/tmp "$HOME" /run "$PWD"; do
  base=${base%/}
  case $skip in *":$base:"*) continue;; esac
  own=$base/.podbridge-$uid
  mkdir "$own" 2>/dev/null
  place=$own
  if [ -d "$own" ]; then
    if [ -L "$own" ] || ! [ -O "$own" ]; then echo "refused $own: belongs to somebody else"; continue; fi
  elif [ -d "$base/" ]; then place=$base
  else echo "refused $base/: is no directory"; continue; fi
  probe=$place/.probe-$random
  if why=$({ echo "exit 0" >"$probe" && chmod 700 "$probe" && "$probe"; } 2>&1); then
    rm -f "$probe" 2>/dev/null
    echo "base $base"
    echo "place $place"
    echo "socket $own"
    exit 0
  fi
  rm -f "$probe" 2>/dev/null
  rmdir "$own" 2>/dev/null
  echo "refused ${place:-/}: ${why##*: }"
done
"#;

/// First line of `FIND`'s report.
pub(super) const FIND_MARKER: &[u8] = b"podbridge-find/1\n";

/// Writes stdin to the new file `$1`. If the file system is full, the script still reads stdin to its end: containerd does not report the
/// end of a program whose stdin is blocked.
pub(super) const WRITE: &str = r#"
exec 8>&1 9>&2
umask 077
set -C
if cat >"$1"; then exit 0; fi
rm -f "$1" 2>/dev/null
cat >/dev/null
exit 1
"#;

/// Prints the written file `$1` and [`END_MARKER`], and waits for the bridge's answer. After [`ANSWER_SAME`] it becomes the proxy for the
/// socket `$2`; else it removes the file. It does not end before the answer: containerd drops the output of an ended program after a
/// second, and a slow link may need longer.
pub(super) const START: &str = r#"
exec 8>&1 9>&2
cat "$1" && echo "podbridge-end/1" && read -r answer && [ "$answer" = same ] &&
  chmod 755 "$1" && exec "$1" proxy --start --socket "$2"
rm -f "$1" 2>/dev/null || : >"$1"
exit 1
"#;
/// Line after the file in the output of `START`.
pub(super) const END_MARKER: &[u8] = b"podbridge-end/1\n";
/// Answer to `START`: the file is the same.
pub(super) const ANSWER_SAME: &[u8] = b"same\n";
/// Answer to `START`: the file differs.
pub(super) const ANSWER_OTHER: &[u8] = b"other\n";

/// The output of `FIND` after [`FIND_MARKER`]: there is no agent.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct FindReport {
    /// Output of `uname -m`; `None` in a container without that program.
    pub(super) machine: Option<String>,
    pub(super) directory: Option<UsableDirectory>,
    /// Directories that cannot be used, each with the reason.
    pub(super) refused: Vec<String>,
}

/// A directory that can take the agent: it is writable and may hold programs.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
pub(super) struct UsableDirectory {
    /// Entry of `FIND`'s list of directories, for the argument `$3` of another run.
    pub(super) base: String,
    /// Directory for the binary.
    pub(super) binary: String,
    /// Directory for the agent's socket.
    pub(super) socket: String,
}

impl FindReport {
    /// Parses the lines after the marker.
    pub(super) fn parse(text: &str) -> Self {
        let mut report = Self::default();
        let mut directory = UsableDirectory::default();
        for line in text.lines() {
            let (key, value) = line.split_once(' ').unwrap_or((line, ""));
            match key {
                "machine" if !value.is_empty() => report.machine = Some(value.to_owned()),
                "base" => directory.base = value.to_owned(),
                "place" => directory.binary = value.to_owned(),
                "socket" => directory.socket = value.to_owned(),
                "refused" => report.refused.push(value.to_owned()),
                _ => {}
            }
        }
        if !directory.socket.is_empty() {
            report.directory = Some(directory);
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn find(home: &std::path::Path, arguments: &[&str]) -> String {
        let output = Command::new("sh")
            .args(["-c", FIND, "sh"])
            .args(arguments)
            .env("HOME", home)
            .env("PATH", "/usr/bin:/bin")
            .current_dir(home)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn the_find_script_reports_a_usable_directory() {
        let home = tempfile::tempdir().unwrap();
        let output = find(
            home.path(),
            &["--start", "r1", ":/tmp:/dev/shm:/var/tmp:", "0.1.0-none"],
        );
        let report = FindReport::parse(output.strip_prefix("podbridge-find/1\n").unwrap());
        assert_eq!(report.machine.as_deref(), Some(std::env::consts::ARCH));
        let usable = report.directory.unwrap();
        assert_eq!(usable.base, home.path().to_str().unwrap());
        assert!(usable.binary.starts_with(&usable.base));
        assert_eq!(usable.binary, usable.socket);
        assert!(
            std::fs::read_dir(&usable.binary).unwrap().next().is_none(),
            "the probe is removed"
        );
    }

    #[test]
    fn the_find_script_runs_a_known_binary_but_no_incomplete_one() {
        use std::os::unix::fs::PermissionsExt as _;
        let home = tempfile::tempdir().unwrap();
        let uid = rustix::process::geteuid().as_raw();
        let own = home.path().join(format!(".podbridge-{uid}"));
        std::fs::create_dir(&own).unwrap();
        let file = own.join("podbridge-agent-0.1.0-abcd.x");
        std::fs::write(&file, "#!/bin/sh\necho \"$@\"\n").unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let arguments = ["", "r2", ":", "0.1.0-zzzz", "0.1.0-abcd"];
        assert_eq!(find(home.path(), &arguments), "podbridge-find/1\n");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o700)).unwrap();
        let expected = format!("proxy --socket {}/agent-abcd.sock\n", own.display());
        assert_eq!(find(home.path(), &arguments), expected);
    }

    #[test]
    fn a_binary_is_written_to_a_new_file_and_runs_only_if_the_content_is_the_same() {
        use std::io::Write as _;
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("f");
        let script = |script: &str, content: &[u8]| {
            let mut child = Command::new("sh")
                .args(["-c", script, "sh"])
                .arg(&file)
                .arg("socket")
                .stdin(std::process::Stdio::piped())
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(content).unwrap();
            child.wait_with_output().unwrap()
        };
        let program = b"#!/bin/sh\necho \"$@\"\n";
        let printed = [&program[..], END_MARKER].concat();
        assert!(script(WRITE, program).status.success());
        // An existing file of that name is not overwritten.
        assert!(!script(WRITE, b"other").status.success());
        assert!(script(WRITE, program).status.success());
        let started = script(START, ANSWER_SAME);
        let expected = [&printed[..], b"proxy --start --socket socket\n"].concat();
        assert_eq!((started.status.success(), started.stdout), (true, expected));
        let refused = script(START, ANSWER_OTHER);
        assert_eq!((refused.status.success(), refused.stdout), (false, printed));
        assert!(!file.exists());
    }
}
