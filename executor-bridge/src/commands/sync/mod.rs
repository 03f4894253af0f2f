//! `podbridge sync`: copies a tree to or from a pod. One side of the copy runs here on a thread. The other side is a command of the agent
//! in the pod, attached like any other command; pipes connect the two (docs/adr/0009).

mod report;

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use podbridge_proto::v1::{TreeCompression, TreeFilter, TreeOpen, TreeSummary};
use podbridge_proto::words::clean;
use podbridge_tree::{Error, PIPE_CAPACITY, PROTOCOL_VERSION, Temporaries};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

use crate::cli::{Compress, Filters, SyncOptions, TargetOptions};
use crate::client::{self, AttachedEnd, Streams};
use crate::commands::bridge_of_pod::bridge_address;
use crate::commands::location::Location;
use crate::commands::sync::report::CopyReport;
use crate::config::BridgeSettings;
use crate::error::{Failure, Kind};
use crate::protocol::byte_string::ByteString;
use crate::protocol::request::{Exec, Input};
use crate::protocol::result::Outcome;
use crate::report::{conclude, say};

/// Bytes kept from the end of the agent's standard error.
const STDERR_TAIL_MAX: usize = 4096;
/// Time limit for the end of this side after the end of the agent's side; a file system may hang.
const LOCAL_SIDE_GRACE: Duration = Duration::from_secs(5);

pub(super) fn run(mut target: TargetOptions, options: BridgeSettings, command: SyncOptions) -> Result<u8, Failure> {
    let sides = (
        Location::parse(&command.source)?,
        Location::parse(&command.destination)?,
    );
    let (namespace, pod, root, local, agent_sends) = match sides {
        (Location::Local(local), Location::Pod { namespace, pod, path }) => (namespace, pod, path, local, false),
        (Location::Pod { namespace, pod, path }, Location::Local(local)) => (namespace, pod, path, local, true),
        (Location::StandardStream, _) | (_, Location::StandardStream) => {
            return Err(Failure::usage(
                "sync cannot copy standard input or output; use podbridge cp",
            ));
        }
        _ => return Err(Failure::usage("exactly one of SRC and DST must be POD:PATH")),
    };
    if local.as_os_str().is_empty() {
        return Err(Failure::usage("the local path is empty; name a file or directory"));
    }
    if !agent_sends {
        local
            .symlink_metadata()
            .map_err(|error| Failure::new(Kind::LocalFile, format!("{} cannot be read: {error}", local.display())))?;
    }
    let open = TreeOpen {
        version: PROTOCOL_VERSION,
        agent_sends,
        root: root.into(),
        delete: command.delete,
        filters: filters(command.filters),
        checksum: command.checksum,
        dry_run: command.dry_run,
        list_changes: command.verbose || command.dry_run,
        fsync: command.fsync,
        compression: compression(command.compress).into(),
        no_owner: command.no_owner,
        preserve_root_attributes: command.preserve_root_attributes,
        no_privileges: agent_sends && !command.privileged,
    };
    podbridge_tree::validate(&open).map_err(|error| Failure::usage(error.to_string()))?;
    target.namespace = namespace.or(target.namespace);
    let container = target.container.clone();
    let bridge = bridge_address(target, &pod, options)?;
    let exec = Exec {
        argv: Some(vec![
            ByteString(b"podbridge-agent".to_vec()),
            ByteString(b"tree".to_vec()),
        ]),
        agent_program: true,
        user: command.user,
        stdin: Input::Stream,
        ..Exec::new()
    };
    let (streams, local_side) = LocalSide::start(open, local, command.quiet)
        .map_err(|error| Failure::new(Kind::Internal, format!("pipes cannot be created: {error}")))?;
    let end = client::run_attached(bridge, container, exec, streams);
    local_side.conclude(end)
}

/// Returns the rules that rsync makes of the same options. A pattern may begin with `- ` or `+ `, which then decides instead of the name of
/// the option, and `!` alone drops all rules before it.
fn filters(filters: Filters) -> Vec<TreeFilter> {
    let mut rules = Vec::new();
    for (include, pattern) in filters.0 {
        let (include, pattern) = match pattern.as_bytes() {
            b"!" => {
                rules.clear();
                continue;
            }
            [b'-', b' ', pattern @ ..] => (false, pattern),
            [b'+', b' ', pattern @ ..] => (true, pattern),
            pattern => (include, pattern),
        };
        rules.push(TreeFilter {
            include,
            pattern: pattern.to_vec().into(),
        });
    }
    rules
}

fn compression(when: Compress) -> TreeCompression {
    match when {
        Compress::Auto => TreeCompression::Auto,
        Compress::Always => TreeCompression::Always,
        Compress::Never => TreeCompression::Never,
    }
}

/// This side of the copy while it runs.
struct LocalSide {
    /// Thread that copies.
    copying: JoinHandle<(Result<TreeSummary, Error>, CopyReport)>,
    /// Thread that reads the agent's standard error; returns its end.
    stderr_tail: JoinHandle<Vec<u8>>,
    /// Temporary files of this side.
    temporaries: Temporaries,
}

impl LocalSide {
    /// Starts this side; returns it, and the streams for the command in the pod.
    fn start(open: TreeOpen, path: PathBuf, quiet: bool) -> io::Result<(Streams, Self)> {
        let pipe = || {
            let ends = pipe_with(PipeFlags::CLOEXEC)?;
            // A failure is ignored: the copy also works with a smaller pipe.
            let _ = fcntl_setpipe_size(&ends.0, PIPE_CAPACITY);
            io::Result::Ok(ends)
        };
        let ((stdin, output), (input, stdout), (agent_stderr, stderr)) = (pipe()?, pipe()?, pipe()?);
        let temporaries = Temporaries::default();
        let local = temporaries.clone();
        let copying = thread::spawn(move || copy(&open, &path, input, output, &local, quiet));
        let stderr_tail = thread::spawn(move || stderr_tail(agent_stderr));
        let streams = Streams {
            stdin: Box::new(stdin),
            stdout: Box::new(stdout),
            stderr: Box::new(stderr),
        };
        Ok((
            streams,
            Self {
                copying,
                stderr_tail,
                temporaries,
            },
        ))
    }

    /// Waits for the end of this side, after the command in the pod and its pipes have ended; returns the exit code.
    fn conclude(self, end: Result<AttachedEnd, Failure>) -> Result<u8, Failure> {
        let waiting_since = Instant::now();
        while !self.copying.is_finished() && waiting_since.elapsed() < LOCAL_SIDE_GRACE {
            thread::sleep(Duration::from_millis(1));
        }
        if !self.copying.is_finished() {
            self.temporaries.remove_all();
            return report_incomplete(end?, &[]);
        }
        let Ok((copied, report)) = self.copying.join() else {
            return Err(Failure::new(
                Kind::Internal,
                "this side of the copy crashed; this is a bug in podbridge, please report it",
            ));
        };
        match (copied, end) {
            (Ok(summary), Ok(AttachedEnd::Outcome(Outcome::Exited { code: 0, .. }))) => Ok(report.conclude(&summary)),
            (Err(Error::Local(sentence)), _) => Err(Failure::new(Kind::LocalFile, sentence)),
            (Err(Error::Peer(sentence)), _) => Err(Failure::new(Kind::RemoteFile, sentence)),
            (Err(error @ Error::Protocol(_)), _) => Err(Failure::new(Kind::Agent, error.to_string())),
            (_, end) => report_incomplete(end?, &self.stderr_tail.join().unwrap_or_default()),
        }
    }
}

/// Reports why the copy is incomplete; returns the exit code.
fn report_incomplete(end: AttachedEnd, stderr_tail: &[u8]) -> Result<u8, Failure> {
    match end {
        AttachedEnd::Detached(code) => Ok(code),
        // A signal that this process passed on, or one that another process in the pod sent.
        AttachedEnd::Outcome(Outcome::Signaled { signal, .. }) => Ok(report_signal(signal)),
        AttachedEnd::Outcome(Outcome::Exited { code, .. }) if code > 128 => Ok(report_signal(code - 128)),
        AttachedEnd::Outcome(Outcome::Exited { code, .. }) => {
            let tail = clean(String::from_utf8_lossy(stderr_tail).trim());
            Err(Failure::new(
                Kind::Agent,
                format!(
                    "the agent's side of the copy ended early with exit code {code}: {tail}; use the same podbridge release on both sides"
                ),
            ))
        }
        AttachedEnd::Outcome(outcome) => Ok(conclude(&outcome)),
    }
}

/// Reports that a signal ended the copy; returns the exit code.
fn report_signal(signal: u8) -> u8 {
    say(&format!(
        "the copy was ended by signal {signal} before it was complete; run the command again to continue"
    ));
    128_u8.saturating_add(signal)
}

/// Runs this side of the copy to its end.
fn copy(
    open: &TreeOpen,
    path: &Path,
    input: OwnedFd,
    output: OwnedFd,
    temporaries: &Temporaries,
    quiet: bool,
) -> (Result<TreeSummary, Error>, CopyReport) {
    let mut report = CopyReport::new(open, path, quiet);
    let (input, output) = (File::from(input), File::from(output));
    let copied = podbridge_tree::call(open, path, input, output, temporaries, &mut |event| report.event(event));
    (copied, report)
}

/// Reads the agent's standard error to its end; returns the last bytes.
fn stderr_tail(agent_stderr: OwnedFd) -> Vec<u8> {
    let (mut agent_stderr, mut tail, mut buffer) = (File::from(agent_stderr), Vec::new(), [0; STDERR_TAIL_MAX]);
    while let Ok(count @ 1..) = agent_stderr.read(&mut buffer) {
        tail.extend_from_slice(&buffer[..count]);
        tail.drain(..tail.len().saturating_sub(STDERR_TAIL_MAX));
    }
    tail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_those_of_rsync() {
        for (options, expected) in [
            (&["exclude *.o", "include a.o"][..], "-*.o +a.o"),
            (&["exclude + keep", "exclude *"], "+keep -*"),
            (&["include - a", "include b"], "-a +b"),
            (&["exclude a", "include !", "exclude b"], "-b"),
            (
                &["exclude !a", "exclude -a", "exclude +a", "exclude _ a"],
                "-!a --a -+a -_ a",
            ),
            (&["exclude - - a", "exclude + !"], "-- a +!"),
        ] {
            let options = options.iter().map(|option| option.split_once(' ').unwrap());
            let given = options
                .map(|(name, pattern)| (name == "include", pattern.into()))
                .collect();
            let shown = |rule: &TreeFilter| {
                let sign = if rule.include { '+' } else { '-' };
                format!("{sign}{}", String::from_utf8_lossy(&rule.pattern))
            };
            let rules: Vec<_> = filters(Filters(given)).iter().map(shown).collect();
            assert_eq!(rules.join(" "), expected);
        }
    }
}
