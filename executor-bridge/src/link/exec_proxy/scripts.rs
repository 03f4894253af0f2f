//! The shell scripts that find the agent in a container or copy it there. They need the programs `sh`, `cat` and `chmod` alone. Owns
//! their text and the format of their output. `exec_proxy` and `inject` run them.
//!
//! The scripts hold file descriptors 1 and 2 open to the end, as copies 8 and 9: containerd ends stdin as soon as one of the two is
//! closed, and then a truncated input looks complete (exit code 0).
//!
//! A script writes a binary to a new file name. The bridge reads the file back and compares it, and only then the file becomes
//! executable. The executable bit therefore marks a complete file: several bridges may write at once, and none runs the incomplete
//! file of another. A lock of the agent makes sure that one agent serves.
//!
//! Other users of the container must not choose what runs here (ADR 25). A directory of the agent is believed if it is real, belongs to this
//! user and nobody else may enter it, and if nobody else can change the way to it. Where others can rename it, as in a volume that the
//! kubelet made for all, it is used through a descriptor, so that it stays the same one, and a program in it is believed for its digest
//! alone. Directories that other containers or pods can write to are not used at all.

/// Beginning of all scripts: which directories can be believed.
///
/// `guarded DIRECTORY PATTERN`: nobody but root and this user can change the directory or the way to it, and its mode has the pattern.
/// `enter DIRECTORY` sets `at` to a path of this user's private directory that stays the same directory.
///
/// `command exec`, because a shell ends at once if it cannot open a file for `exec` alone, and directories and processes come and go.
macro_rules! directories {
    () => {
        r#"
umask 077
uid=
{ while read -r key _ value _; do case $key in Uid:) uid=$value; break;; esac; done </proc/self/status; } 2>/dev/null
guarded() {
  pattern=$2
  at=${1%/}
  set --
  while :; do
    set -- "$@" "${at:-/}"
    [ -n "$at" ] || break
    at=${at%/*}
  done
  LC_ALL=C ls -ldn "$@" 2>/dev/null | (
    count=0
    while read -r mode _ owner _; do
      case $mode in ?????????[tT]*) ;; ?????w*|????????w*) exit 1;; esac
      case $owner in 0|"$uid") ;; *) exit 1;; esac
      count=$((count + 1))
      last=$mode
    done
    [ $count = $# ] || exit 1
    case $last in $pattern) exit 0;; esac
    exit 1
  )
}
own() { [ -d "$1" ] && [ ! -L "$1" ] && [ -O "$1" ]; }
private='drwx--[-S]---*'
enter() {
  own "$1" || return 1
  guarded "$1" "$private" && { at=$1; return 0; }
  # In an image without `ls`: nobody can rename a directory of another user in one with the sticky bit.
  command -v ls >/dev/null 2>&1 || { [ -k "${1%/*}/" ] && at=$1 && return 0; return 1; }
  { command exec 6<"$1"; } 2>/dev/null || return 1
  at=/proc/self/fd/6
  [ "$(cd -P "$at/" 2>/dev/null && pwd -P)" = "$1" ] && [ -O "$at/" ] || return 1
  case $(LC_ALL=C ls -ldn "$at/." 2>/dev/null) in drwx--[-S]---[\ .]*) return 0;; esac
  return 1
}
"#
    };
}

/// Beginning of the scripts that start an agent. `try PROGRAM OPTION…` becomes the proxy of a running agent, or runs a proxy that starts an
/// agent and ends with it; it returns 0 if it may not start one, and 1 if the program is of no use: it is damaged, for another machine, or
/// of another release. A shell changes the environment of the programs that it becomes: it adds variables, and drops those whose names it
/// cannot hold. The shell therefore stays as the parent of a proxy that starts an agent, so that the proxy can read the environment that
/// the container runtime gave; it holds no descriptor of the link meanwhile.
macro_rules! beginning {
    () => {
        concat!(
            "\nexec 7<&0 8>&1 9>&2",
            directories!(),
            r#"
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
        )
    };
}

/// Finds an agent. Arguments: `$1` --start or nothing, `$2` the option that limits the spool, or nothing, `$3` a random name, `$4`
/// directories not to use for a new agent (`:/tmp:`), `$5` free KiB that a new agent needs, `$6` other mounted directories, `$7` directories
/// to look at after the usual ones, `$8` directories that other containers can write to, then the known binaries as `TAG:SHA256`. The lists
/// have a colon around each path; an empty path is the root. Becomes the proxy if there is an agent, else prints [`FIND_MARKER`] and a
/// directory for one (see [`FindReport`]). An agent whose files were removed, or cannot be believed, is found by its process.
pub(super) const FIND: &str = concat!(
    beginning!(),
    r#"
start=$1 spool=$2 random=$3 skip=$4 need=$5 mounts=$6 more=$7 shared=$8 injected=
shift 8
# Whether the file system of the directory $2 is in the list $1.
is_on() {
  case $1 in *":$2:"*) return 0;; esac
  at=$(cd -P "$2/" 2>/dev/null && pwd -P) || at=$2
  at=${at%/}
  while :; do
    case $1 in *":$at:"*) return 0;; esac
    case $skip$mounts in *":$at:"*) return 1;; esac
    [ -n "$at" ] || return 1
    at=${at%/*}
  done
}
# Whether the directory $1 is a mount that this container cannot write to.
is_read_only() {
  while read -r _ _ _ _ point options _; do
    [ "$point" = "$1" ] && case $options in ro|ro,*) return 0;; esac
  done </proc/self/mountinfo
  return 1
} 2>/dev/null
for program in podbridge-agent /opt/podbridge/podbridge-agent; do
  program=$(command -v "$program" 2>/dev/null) || continue
  directory=$(cd -P "${program%/*}/" 2>/dev/null && pwd -P) || continue
  guarded "$directory" '*' || is_read_only "$directory" || continue
  try "$program" && continue
  # A program of an older release has no probe. A damaged one prints no version.
  [ -n "$("$program" version 2>/dev/null </dev/null)" ] || continue
  "$program" proxy $start
  status=$?
  [ $status -gt 1 ] || exit $status
done
bases=/tmp:/dev/shm:/var/tmp
case $HOME in /*) guarded "$(cd -P "$HOME/" 2>/dev/null && pwd -P)" '*' && bases=$bases:$HOME;; esac
bases=$bases:/run${more:+:$more}:/dev
digests=
for known; do tag=${known%%:*}; digests="$digests --digest ${tag##*-}"; done
# Tries the known programs in the directory $1, as which `at` is open; $2 is set if they are believed for their digest alone.
try_known() {
  own=$1 verify=$2
  shift 2
  for known; do
    tag=${known%%:*}
    for file in "$at/podbridge-agent-$tag".*; do
      [ -f "$file" ] && [ ! -L "$file" ] && [ -x "$file" ] && [ -O "$file" ] || continue
      if [ -n "$verify" ]; then
        sum=$(sha256sum <"$file" 2>/dev/null) && [ "${sum%% *}" = "${known##*:}" ] || continue
      fi
      try "$file" --digest "${tag##*-}" --container-socket "$own/agent-${tag##*-}.sock" && continue
      remove "$file"
    done
  done
}
unguarded=
set -f
IFS=:
for base in $bases; do
  unset IFS
  set +f
  base=$(cd -P "$base/" 2>/dev/null && pwd -P) || continue
  base=${base%/}
  is_on "$shared" "$base" && continue
  for own in "$base/.podbridge-$uid" "$base/.podbridge-$uid"-*; do
    enter "$own" || continue
    if [ "$at" = "$own" ]; then try_known "$own" '' "$@"
    else unguarded=$unguarded:$own
    fi
  done
done
# This user runs the program of its own process already. The descriptor makes sure that it is the process that was looked at.
has_own_ids() { [ "$1 $2 $3 $4" = "$uid $uid $uid $uid" ]; }
for process in /proc/[0-9]*; do
  name=
  { read -r name <"$process/comm"; } 2>/dev/null
  [ "$name" = podbridge-agent ] && [ "$process/root/" -ef / ] 2>/dev/null || continue
  { command exec 6<"$process"; } 2>/dev/null || continue
  ids=
  { while read -r key ids; do case $key in Uid:) break;; esac; done </proc/self/fd/6/status; } 2>/dev/null
  has_own_ids $ids || continue
  try /proc/self/fd/6/exe --process "${process##*/}" $digests
done
set -f
IFS=:
for own in $unguarded; do
  unset IFS
  set +f
  [ -n "$own" ] && enter "$own" && try_known "$own" verify "$@"
done
unset IFS
set +f
echo "podbridge-find/1"
[ -n "$start" ] || exit 0
echo "machine $(uname -m 2>/dev/null)"
# Makes a directory in $base, or takes the one that this user has there. Whoever knows the first name may have taken it; nobody knows the
# second one. In an image without `mkdir`, the binary itself goes where nobody can exchange it.
make_own() {
  own=$base/.podbridge-$uid
  mkdir "$own" 2>/dev/null
  enter "$own" && place=$own && return 0
  if ! command -v mkdir >/dev/null 2>&1; then
    why="there is no mkdir, and others may change it"
    at=$base place=$base
    [ -k "$base/" ]
    return
  fi
  own=$base/.podbridge-$uid-$random
  why=$(mkdir "$own" 2>&1) && enter "$own" && place=$own && return 0
  rmdir "$own" 2>/dev/null
  return 1
}
# Reports the directory $1 and ends if it can take an agent.
report() {
  base=$(cd -P "$1/" 2>/dev/null && pwd -P) || { echo "refused ${1:-/}: is no directory"; return; }
  base=${base%/}
  why=
  make_own || { why=${why##*: }; echo "refused ${base:-/}: ${why:-without ls, nothing tells whether other users have changed it}"; return; }
  free=$(stat -f -c '%a %S' "$at" 2>/dev/null) && free=$((${free%% *} * ${free##* } / 1024)) && [ "$free" -lt "$need" ] && {
    rmdir "$own" 2>/dev/null
    echo "refused ${place:-/}: only $free KiB are free"
    return
  }
  probe=$at/.probe-$random
  if why=$({ echo "exit 0" >"$probe" && chmod 700 "$probe" && "$probe"; } 2>&1); then
    rm -f "$probe" 2>/dev/null
    echo "base $1"
    echo "place $place"
    echo "socket $own"
    exit 0
  fi
  rm -f "$probe" 2>/dev/null
  rmdir "$own" 2>/dev/null
  echo "refused ${place:-/}: ${why##*: }"
}
# Directories that others can rename come last.
later=
set -f
IFS=:
for base in $bases; do
  unset IFS
  set +f
  base=${base%/}
  if is_on "$shared" "$base"; then echo "refused ${base:-/}: other containers can write to it"
  elif is_on "$skip" "$base"; then echo "refused ${base:-/}: has a size limit, or is full"
  elif guarded "$(cd -P "$base/" 2>/dev/null && pwd -P)" '*' || ! command -v ls >/dev/null 2>&1; then report "$base"
  else later=$later:$base
  fi
done
set -f
IFS=:
for base in ${later#:}; do
  unset IFS
  set +f
  report "$base"
done
"#
);

/// Directories that `FIND` looks at in every container, beside the home.
pub(super) const BASES: [&str; 5] = ["/tmp", "/dev/shm", "/var/tmp", "/run", "/dev"];

/// First line of `FIND`'s report.
pub(super) const FIND_MARKER: &[u8] = b"podbridge-find/1\n";

/// Takes the directory `$1` for the file `$2`, if it is still the one that `FIND` reported.
macro_rules! place {
    () => {
        r#"
enter "$1" || { at=$1; ! command -v mkdir >/dev/null 2>&1 && [ -k "$1/" ]; } || {
  echo "another user has changed the directory" >&2
  exit 1
}
"#
    };
}

/// Writes stdin to the new file `$2` in the directory `$1`. If the file system is full, the script still reads stdin to its end: containerd
/// does not report the end of a program whose stdin is blocked.
pub(super) const WRITE: &str = concat!(
    "\nexec 8>&1 9>&2",
    directories!(),
    place!(),
    r#"
set -C
if cat >"$at/$2"; then exit 0; fi
rm -f "$at/$2" 2>/dev/null
cat >/dev/null
exit 1
"#
);

/// Prints the written file `$2` in the directory `$1`, and [`END_MARKER`], and waits for the bridge's answer. After [`ANSWER_SAME`] it runs
/// the proxy for the container socket `$3` of an agent with the digest `$4`, and gives it the option `$5`; else, and if no agent can be
/// started, it removes the file. It does not end before the answer: containerd drops the output of an ended program after a second, and a
/// slow link may need longer.
pub(super) const START: &str = concat!(
    beginning!(),
    place!(),
    r#"
file=$at/$2
start=--start spool=$5 injected=$file
cat "$file" && echo "podbridge-end/1" && read -r answer && [ "$answer" = same ] && chmod 755 "$file" && {
  try "$file" --digest "$4" --container-socket "$3"
  "$file" version >&2
  remove "$file"
  exit 127
}
rm -f "$file" 2>/dev/null || : >"$file"
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
mod tests;
