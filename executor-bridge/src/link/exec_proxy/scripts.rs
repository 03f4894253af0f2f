//! Finding the agent in a container, or bringing it there, with nothing but `sh`, `cat` and `chmod`. The scripts hold
//! descriptors 1 and 2 open to the end: containerd ends stdin as soon as one of them is closed, and truncates with exit 0.
//!
//! A binary is written under a name of its own, read back and compared by the bridge, and made executable only then: the
//! executable bit is the mark of a whole file, so that several bridges may write at once and none runs another's half.
//! The agent's own lock sees to it that one of them serves.

/// `$1` --start or nothing, `$2` a random name, `$3` places not to try again (`:/tmp:`), then tags of known binaries.
/// Becomes the proxy if there is an agent, else prints where one could be put.
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

/// `$1` the new file. What does not fit is read to its end all the same: containerd tells of no end while stdin is stuck.
pub(super) const WRITE: &str = r#"
exec 8>&1 9>&2
umask 077
set -C
if cat >"$1"; then exit 0; fi
rm -f "$1" 2>/dev/null
cat >/dev/null
exit 1
"#;

/// `$1` the written file, `$2` its socket. Prints the file, then [`END`], and waits to be told that it is the same: what is printed
/// by a program that has ended may be lost, a second later, on a link that is slower. Becomes the proxy, or removes the file.
pub(super) const START: &str = r#"
exec 8>&1 9>&2
cat "$1" && echo "podbridge-end/1" && read -r answer && [ "$answer" = same ] &&
  chmod 755 "$1" && exec "$1" proxy --start --socket "$2"
rm -f "$1" 2>/dev/null || : >"$1"
exit 1
"#;
pub(super) const END: &[u8] = b"podbridge-end/1\n";
pub(super) const SAME: &[u8] = b"same\n";
pub(super) const OTHER: &[u8] = b"other\n";

/// What `FIND` says when it found no agent.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    /// As `uname -m` has it; unknown without that tool.
    pub(super) machine: Option<String>,
    pub(super) place: Option<Usable>,
    /// Directories that cannot be used, each with its reason.
    pub(super) refused: Vec<String>,
}

#[derive(Debug, Default, PartialEq, Eq, Clone)]
pub(super) struct Usable {
    /// As `FIND` tries it; to be skipped if it does not do after all.
    pub(super) base: String,
    /// Where the binary goes.
    pub(super) place: String,
    /// Where its socket goes.
    pub(super) socket: String,
}

pub(super) const REPORT: &[u8] = b"podbridge-find/1\n";

impl Report {
    /// From what follows the first line.
    pub(super) fn parse(text: &str) -> Self {
        let mut report = Self::default();
        let mut usable = Usable::default();
        for line in text.lines() {
            let (key, value) = line.split_once(' ').unwrap_or((line, ""));
            match key {
                "machine" if !value.is_empty() => report.machine = Some(value.to_owned()),
                "base" => usable.base = value.to_owned(),
                "place" => usable.place = value.to_owned(),
                "socket" => usable.socket = value.to_owned(),
                "refused" => report.refused.push(value.to_owned()),
                _ => {}
            }
        }
        if !usable.socket.is_empty() {
            report.place = Some(usable);
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
    fn the_script_reports_a_usable_place() {
        let home = tempfile::tempdir().unwrap();
        let said = find(
            home.path(),
            &["--start", "r1", ":/tmp:/dev/shm:/var/tmp:", "0.1.0-none"],
        );
        let report = Report::parse(said.strip_prefix("podbridge-find/1\n").unwrap());
        assert_eq!(report.machine.as_deref(), Some(std::env::consts::ARCH));
        let usable = report.place.unwrap();
        assert_eq!(usable.base, home.path().to_str().unwrap());
        assert!(usable.place.starts_with(&usable.base));
        assert_eq!(usable.place, usable.socket);
        assert!(
            std::fs::read_dir(&usable.place).unwrap().next().is_none(),
            "the probe is removed"
        );
    }

    #[test]
    fn the_script_becomes_a_known_binary_but_no_half_one() {
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
    fn a_binary_is_written_once_and_runs_only_if_it_is_the_same() {
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
        let printed = [&program[..], END].concat();
        assert!(script(WRITE, program).status.success());
        // Somebody else's file of that name is not followed.
        assert!(!script(WRITE, b"other").status.success());
        assert!(script(WRITE, program).status.success());
        let started = script(START, SAME);
        let expected = [&printed[..], b"proxy --start --socket socket\n"].concat();
        assert_eq!((started.status.success(), started.stdout), (true, expected));
        let refused = script(START, OTHER);
        assert_eq!((refused.status.success(), refused.stdout), (false, printed));
        assert!(!file.exists());
    }
}
