//! The shell scripts that find the agent in a container or copy it there. They need the programs `sh`, `cat` and `chmod` alone. Owns
//! their text and the format of their output. `exec_proxy` and `inject` run them.
//!
//! The scripts hold file descriptors 1 and 2 open to the end, as copies 8 and 9: containerd ends stdin as soon as one of the two is
//! closed, and then a truncated input looks complete (exit code 0).
//!
//! A script writes a binary to a new file name. The bridge reads the file back and compares it, and only then the file becomes
//! executable. The executable bit therefore marks a complete file: several bridges may write at once, and none runs the incomplete
//! file of another. A lock of the agent makes sure that one agent serves.

/// Beginning of the scripts that start an agent. `try PROGRAM OPTION…` becomes the proxy of a running agent, or runs a proxy that starts an
/// agent and ends with it; it returns 0 if it may not start one, and 1 if the program is of no use: it is damaged, for another machine, or
/// of another release. A shell changes the environment of the programs that it becomes: it adds variables, and drops those whose names it
/// cannot hold. The shell therefore stays as the parent of a proxy that starts an agent, so that the proxy can read the environment that
/// the container runtime gave; it holds no descriptor of the link meanwhile.
macro_rules! beginning {
    () => {
        r#"
exec 7<&0 8>&1 9>&2
umask 077
remove() { rm -f "$1" 2>/dev/null || chmod 600 "$1"; }
try() {
  program=$1
  shift
  case $("$program" proxy --probe "$@" 2>/dev/null </dev/null) in
    running) exec "$program" proxy $start "$@" 7<&-;;
    ready)
      [ -n "$start" ] || return 0
      "$program" proxy $start --parent-environment $spool "$@" <&7 7<&- 8>&- 9>&- &
      exec </dev/null >&- 2>&- 7<&- 8>&- 9>&-
      wait $!
      status=$?
      [ $status = 0 ] || [ -z "$injected" ] || remove "$injected"
      exit $status;;
  esac
  return 1
}
"#
    };
}

/// Finds an agent. Arguments: `$1` --start or nothing, `$2` the option that limits the spool, or nothing, `$3` a random name, `$4`
/// directories not to use for a new agent (`:/tmp:`), `$5` free KiB that a new agent needs, `$6` other mounted directories, `$7` directories
/// to look at after the usual ones, then tags of known binaries. The lists have a colon around each path; an empty path is the root.
/// Becomes the proxy if there is an agent, else prints [`FIND_MARKER`] and a directory for one (see [`FindReport`]). An agent whose files
/// were removed is found by its process.
pub(super) const FIND: &str = concat!(
    beginning!(),
    r#"
start=$1 spool=$2 random=$3 skip=$4 need=$5 mounts=$6 more=$7 injected=
shift 7
for program in podbridge-agent /opt/podbridge/podbridge-agent; do
  command -v "$program" >/dev/null 2>&1 || continue
  try "$program" && continue
  # A program of an older release has no probe. A damaged one prints no version.
  [ -n "$("$program" version 2>/dev/null </dev/null)" ] || continue
  "$program" proxy $start
  status=$?
  [ $status -gt 1 ] || exit $status
done
uid=
{ while read -r key _ value _; do case $key in Uid:) uid=$value; break;; esac; done </proc/self/status; } 2>/dev/null
bases=/tmp:/dev/shm:/var/tmp${HOME:+:$HOME}:/run:$PWD${more:+:$more}:/dev
digests=
for tag; do digests="$digests --digest ${tag##*-}"; done
set -f
IFS=:
for base in $bases; do
  unset IFS
  set +f
  base=${base%/}
  for tag; do
    for file in "$base/.podbridge-$uid/podbridge-agent-$tag".* "$base/podbridge-agent-$tag".*; do
      [ -f "$file" ] && [ -x "$file" ] && [ -O "$file" ] 2>/dev/null || continue
      try "$file" --digest "${tag##*-}" --container-socket "$base/.podbridge-$uid/agent-${tag##*-}.sock" && continue
      remove "$file"
    done
  done
done
for process in /proc/[0-9]*; do
  name=
  { read -r name <"$process/comm"; } 2>/dev/null
  [ "$name" = podbridge-agent ] && [ "$process/root/" -ef / ] 2>/dev/null || continue
  try "$process/exe" --process "${process##*/}" $digests
done
echo "podbridge-find/1"
[ -n "$start" ] || exit 0
echo "machine $(uname -m 2>/dev/null)"
# Whether the file system of the directory $1 is one that may not be used.
is_skipped() {
  case $skip in *":$1:"*) return 0;; esac
  at=$(cd -P "$1/" 2>/dev/null && pwd -P) || at=$1
  at=${at%/}
  while :; do
    case $skip in *":$at:"*) return 0;; esac
    case $mounts in *":$at:"*) return 1;; esac
    [ -n "$at" ] || return 1
    at=${at%/*}
  done
}
set -f
IFS=:
for base in $bases; do
  unset IFS
  set +f
  base=${base%/}
  if is_skipped "$base"; then echo "refused ${base:-/}: has a size limit, or is full"; continue; fi
  own=$base/.podbridge-$uid
  mkdir "$own" 2>/dev/null
  place=$own
  if [ -d "$own" ]; then
    if [ -L "$own" ] || ! [ -O "$own" ]; then echo "refused $own: belongs to somebody else"; continue; fi
  elif [ -d "$base/" ]; then place=$base
  else echo "refused $base/: is no directory"; continue; fi
  free=$(stat -f -c '%a %S' "$place" 2>/dev/null) && free=$((${free%% *} * ${free##* } / 1024)) && [ "$free" -lt "$need" ] && {
    rmdir "$own" 2>/dev/null
    echo "refused ${place:-/}: only $free KiB are free"
    continue
  }
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
"#
);

/// Directories that `FIND` looks at in every container, beside home and working directory.
pub(super) const BASES: [&str; 5] = ["/tmp", "/dev/shm", "/var/tmp", "/run", "/dev"];

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

/// Prints the written file `$1` and [`END_MARKER`], and waits for the bridge's answer. After [`ANSWER_SAME`] it runs the proxy for the
/// container socket `$2` of an agent with the digest `$3`, and gives it the option `$4`; else, and if no agent can be started, it removes
/// the file. It does not end before the answer: containerd drops the output of an ended program after a second, and a slow link may need
/// longer.
pub(super) const START: &str = concat!(
    beginning!(),
    r#"
start=--start spool=$4 injected=$1
cat "$1" && echo "podbridge-end/1" && read -r answer && [ "$answer" = same ] && chmod 755 "$1" && {
  try "$1" --digest "$3" --container-socket "$2"
  "$1" version >&2
  remove "$1"
  exit 127
}
rm -f "$1" 2>/dev/null || : >"$1"
exit 1
"#
);
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

/// A directory that can take the agent: it is writable, has enough space, and may hold programs.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
pub(super) struct UsableDirectory {
    /// Entry of `FIND`'s list of directories, for the argument `$4` of another run.
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
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Output};

    use super::*;

    /// An agent as the scripts see it: a program that answers a probe, tells what it was run with, and shows its parent's environment.
    const PROGRAM: &str = r#"#!/bin/sh
case " $* " in
  *" --probe "*) echo ANSWER;;
  *) echo "$@";;
esac
"#;

    fn run(home: &Path, script: &str, arguments: &[&str], stdin: &[u8]) -> Output {
        use std::io::Write as _;
        let mut child = Command::new("sh")
            .args(["-c", script, "sh"])
            .args(arguments)
            .env("HOME", home)
            .env("PATH", "/usr/bin:/bin")
            .current_dir(home)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(stdin).unwrap();
        child.wait_with_output().unwrap()
    }

    /// Directories of this host that a test does not touch.
    const HOST_DIRECTORIES: &str = ":/tmp:/dev/shm:/var/tmp:/run:/dev:";

    /// Runs `FIND` where only the home directory may be used; `settings` are its arguments `$4`, `$5`, `$6` and `$7`.
    fn find(home: &Path, start: &str, settings: [&str; 4], tags: &[&str]) -> String {
        let arguments = [&[start, "", "r1"][..], &settings, tags].concat();
        String::from_utf8(run(home, FIND, &arguments, b"").stdout).unwrap()
    }

    fn write_program(home: &Path, answer: &str, mode: u32) -> PathBuf {
        let uid = rustix::process::geteuid().as_raw();
        let own = home.join(format!(".podbridge-{uid}"));
        fs::create_dir_all(&own).unwrap();
        let file = own.join("podbridge-agent-0.1.0-abcd.x");
        fs::write(&file, PROGRAM.replace("ANSWER", answer)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        file
    }

    fn home() -> tempfile::TempDir {
        tempfile::tempdir().unwrap()
    }

    /// Returns the list that has the home directory as a file system of its own, wherever it is.
    fn own_mount(home: &Path) -> String {
        format!(":{}:", home.display())
    }

    #[test]
    fn the_find_script_reports_a_usable_directory() {
        let home = home();
        let output = find(
            home.path(),
            "--start",
            [HOST_DIRECTORIES, "1", &own_mount(home.path()), ""],
            &["0.1.0-none"],
        );
        let report = FindReport::parse(output.strip_prefix("podbridge-find/1\n").unwrap());
        assert_eq!(report.machine.as_deref(), Some(std::env::consts::ARCH));
        let usable = report.directory.unwrap();
        assert_eq!(usable.base, home.path().to_str().unwrap());
        assert!(usable.binary.starts_with(&usable.base));
        assert_eq!(usable.binary, usable.socket);
        assert!(
            fs::read_dir(&usable.binary).unwrap().next().is_none(),
            "the probe is removed"
        );
    }

    /// Each row: directories that may not be used, free KiB that are needed, other mounted directories, more directories; which directory
    /// is chosen. `~` is the home directory.
    #[test]
    fn the_find_script_goes_where_the_agent_has_space() {
        let home = home();
        fs::create_dir_all(home.path().join("volume/nested")).unwrap();
        let host = HOST_DIRECTORIES.trim_end_matches(':');
        let full = u64::MAX / 4096;
        for (skip, need, mounts, more, expected) in [
            ("", 1, ":~", "", Some("~")),
            ("", full, ":~", "", None),
            (":~", 1, "", "", None),
            (":~", 1, ":~/volume", "~/volume", Some("~/volume")),
            (":~", 1, ":~/volume", "~/volume/nested", Some("~/volume/nested")),
            (":~", 1, "", "~/volume/nested", None),
            (":~:~/volume", 1, "", "~/missing:~/volume", None),
            // The root has a limit, and no other file system is mounted.
            (":", 1, "", "~/volume", None),
            (":", 1, ":~/volume", "~/volume", Some("~/volume")),
        ] {
            let at_home = |text: &str| text.replace('~', home.path().to_str().unwrap());
            let skip = format!("{host}{}:", at_home(skip));
            let mounts = format!("{}:", at_home(mounts));
            let settings = [&*skip, &need.to_string(), &mounts, &at_home(more)];
            let output = find(home.path(), "--start", settings, &[]);
            let report = FindReport::parse(output.strip_prefix("podbridge-find/1\n").unwrap());
            let chosen = report.directory.map(|directory| directory.base);
            assert_eq!(chosen, expected.map(at_home), "{settings:?}: {:?}", report.refused);
        }
    }

    #[test]
    fn the_find_script_runs_a_known_binary_but_no_incomplete_one() {
        let home = home();
        let settings = [":", "1", ":", ""];
        let tags = ["0.1.0-zzzz", "0.1.0-abcd"];
        let own = write_program(home.path(), "running", 0o600)
            .parent()
            .unwrap()
            .to_owned();
        assert_eq!(find(home.path(), "", settings, &tags), "podbridge-find/1\n");
        for (answer, start, options) in [
            ("running", "", Some("proxy")),
            ("running", "--start", Some("proxy --start")),
            ("ready", "--start", Some("proxy --start --parent-environment")),
            ("ready", "", None),
        ] {
            write_program(home.path(), answer, 0o700);
            let socket = own.join("agent-abcd.sock");
            let expected = match options {
                Some(options) => format!("{options} --digest abcd --container-socket {}\n", socket.display()),
                None => "podbridge-find/1\n".to_owned(),
            };
            assert_eq!(find(home.path(), start, settings, &tags), expected);
        }
    }

    #[test]
    fn a_damaged_program_is_removed_and_another_one_is_asked_for() {
        let home = home();
        let whole = PROGRAM.replace("ANSWER", "garbage");
        let segfault = "#!/bin/sh\nkill -SEGV $$\n";
        for damaged in [
            &[][..],
            &[0; 4096],
            b"\x7fELF\x02\x01\x01",
            segfault.as_bytes(),
            whole.as_bytes(),
        ] {
            let file = write_program(home.path(), "", 0o700);
            fs::write(&file, damaged).unwrap();
            let mount = own_mount(home.path());
            let settings = [HOST_DIRECTORIES, "1", &mount, ""];
            let output = find(home.path(), "--start", settings, &["0.1.0-abcd"]);
            let report = FindReport::parse(output.strip_prefix("podbridge-find/1\n").unwrap());
            assert!(report.directory.is_some(), "{output}");
            assert!(!file.exists());
        }
    }

    #[test]
    fn a_binary_is_written_to_a_new_file_and_runs_only_if_the_content_is_the_same() {
        let home = home();
        let file = home.path().join("f");
        let script = |script: &str, content: &[u8]| {
            let arguments = [file.to_str().unwrap(), "socket", "abcd", "--spool-limit=9"];
            run(home.path(), script, &arguments, content)
        };
        let program = PROGRAM.replace("ANSWER", "ready");
        let printed = [program.as_bytes(), END_MARKER].concat();
        assert!(script(WRITE, program.as_bytes()).status.success());
        // An existing file of that name is not overwritten.
        assert!(!script(WRITE, b"other").status.success());
        assert!(script(WRITE, program.as_bytes()).status.success());
        let started = script(START, ANSWER_SAME);
        let options = "--start --parent-environment --spool-limit=9 --digest abcd --container-socket socket";
        let expected = [&printed[..], format!("proxy {options}\n").as_bytes()].concat();
        assert_eq!((started.status.success(), started.stdout), (true, expected));
        let refused = script(START, ANSWER_OTHER);
        assert_eq!((refused.status.success(), refused.stdout), (false, printed));
        assert!(!file.exists());
    }

    #[test]
    fn a_binary_with_which_no_agent_starts_is_not_left_behind() {
        let home = home();
        let file = home.path().join("f");
        let fails = PROGRAM.replace("ANSWER", "ready").replace("echo \"$@\"", "exit 1");
        for (program, code) in [(fails.as_bytes(), 1), (b"\x7fELF\x02\x01\x01", 127)] {
            let arguments = [file.to_str().unwrap(), "socket", "abcd", ""];
            assert!(run(home.path(), WRITE, &arguments, program).status.success());
            let started = run(home.path(), START, &arguments, ANSWER_SAME);
            assert_eq!(started.status.code(), Some(code), "{started:?}");
            assert!(!file.exists());
        }
    }
}
