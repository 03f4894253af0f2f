//! `podbridge sync`: a tree to or from a pod. One side of the copy runs here on a thread, the other is a command of the agent in the pod,
//! attended like any other (docs/adr/0009).

mod report;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use podbridge_proto::v1::{TreeCompression, TreeFilter, TreeOpen, TreeSummary};
use podbridge_tree::{Error, PIPE_CAPACITY, PROTOCOL_VERSION, Temporaries};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

use crate::cli::{Compress, Filters, SyncOptions, TargetOptions};
use crate::client::{self, Ended, Streams};
use crate::commands::bridge_of_pod::bridge_address;
use crate::commands::location::Side;
use crate::commands::sync::report::Shown;
use crate::config::BridgeSettings;
use crate::error::{Failure, Kind};
use crate::protocol::byte_string::ByteString;
use crate::protocol::request::{Exec, Input};
use crate::protocol::result::Outcome;
use crate::protocol::target::hex;
use crate::random;
use crate::report::{conclude, say};

/// What the agent's side says at its end, at most.
const LAST_WORDS: usize = 4096;
/// Our side ends when the other one has; a file system that hangs is not waited for.
const LINGER: Duration = Duration::from_secs(5);

pub(super) fn run(target: TargetOptions, options: BridgeSettings, command: SyncOptions) -> Result<u8, Failure> {
    let sides = (Side::parse(&command.source)?, Side::parse(&command.destination)?);
    let (pod, root, own, agent_sends) = match sides {
        (Side::Local(own), Side::Pod { pod, path }) => (pod, path, own, false),
        (Side::Pod { pod, path }, Side::Local(own)) => (pod, path, own, true),
        (Side::Standard, _) | (_, Side::Standard) => {
            return Err(Failure::usage("sync copies no standard input or output; cp does"));
        }
        _ => return Err(Failure::usage("exactly one of SRC and DST must be POD:PATH")),
    };
    if own.as_os_str().is_empty() {
        return Err(Failure::usage("the local path is empty"));
    }
    if !agent_sends {
        own.symlink_metadata()
            .map_err(|error| Failure::new(Kind::LocalFile, format!("{} cannot be read: {error}", own.display())))?;
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
    };
    podbridge_tree::validate(&open).map_err(|error| Failure::usage(error.to_string()))?;
    let container = target.container.clone();
    let bridge = bridge_address(target, &pod, options)?;
    let exec = Exec {
        exec_id: Some(hex(&random::bytes::<16>())),
        argv: Some(vec![
            ByteString(b"podbridge-agent".to_vec()),
            ByteString(b"tree".to_vec()),
        ]),
        agent_program: true,
        user: command.user,
        stdin: Input::Stream,
        ..Exec::default()
    };
    let (streams, own_side) = Own::start(open, own, command.quiet)
        .map_err(|error| Failure::new(Kind::Internal, format!("no pipes: {error}")))?;
    let ended = client::attend(bridge, container, exec, streams);
    own_side.conclude(ended)
}

fn filters(filters: Filters) -> Vec<TreeFilter> {
    let filter = |(include, pattern): (bool, OsString)| TreeFilter {
        include,
        pattern: pattern.into_vec().into(),
    };
    filters.0.into_iter().map(filter).collect()
}

fn compression(when: Compress) -> TreeCompression {
    match when {
        Compress::Auto => TreeCompression::Auto,
        Compress::Always => TreeCompression::Always,
        Compress::Never => TreeCompression::Never,
    }
}

/// Our side of the copy, as it runs.
struct Own {
    copying: JoinHandle<(Result<TreeSummary, Error>, Shown)>,
    last_words: JoinHandle<Vec<u8>>,
    temporaries: Temporaries,
}

impl Own {
    /// And what the command in the pod is to be attended with.
    fn start(open: TreeOpen, path: PathBuf, quiet: bool) -> io::Result<(Streams, Self)> {
        let pipe = || {
            let ends = pipe_with(PipeFlags::CLOEXEC)?;
            // Where the system grants less, it works as well.
            let _ = fcntl_setpipe_size(&ends.0, PIPE_CAPACITY);
            io::Result::Ok(ends)
        };
        let ((stdin, output), (input, stdout), (said, stderr)) = (pipe()?, pipe()?, pipe()?);
        let temporaries = Temporaries::default();
        let own = temporaries.clone();
        let copying = thread::spawn(move || copy(&open, &path, input, output, &own, quiet));
        let last_words = thread::spawn(move || last_words(said));
        let streams = Streams {
            stdin: Box::new(stdin),
            stdout: Box::new(stdout),
            stderr: Box::new(stderr),
        };
        Ok((
            streams,
            Self {
                copying,
                last_words,
                temporaries,
            },
        ))
    }

    /// The command in the pod has ended, and the pipes with it.
    fn conclude(self, ended: Result<Ended, Failure>) -> Result<u8, Failure> {
        let begun = Instant::now();
        while !self.copying.is_finished() && begun.elapsed() < LINGER {
            thread::sleep(Duration::from_millis(1));
        }
        if !self.copying.is_finished() {
            self.temporaries.remove_all();
            return leave(ended?, &[]);
        }
        let Ok((copied, shown)) = self.copying.join() else {
            return Err(Failure::new(
                Kind::Internal,
                "our side of the copy failed; please report it",
            ));
        };
        match (copied, ended) {
            (Ok(summary), Ok(Ended::Outcome(Outcome::Exited { code: 0, .. }))) => Ok(shown.conclude(&summary)),
            (Err(Error::Local(sentence)), _) => Err(Failure::new(Kind::LocalFile, sentence)),
            (Err(Error::Peer(sentence)), _) => Err(Failure::new(
                Kind::RemoteFile,
                podbridge_tree::escape_for_terminal(sentence.as_bytes()),
            )),
            (Err(error @ Error::Protocol(_)), _) => Err(Failure::new(Kind::Agent, error.to_string())),
            (_, ended) => leave(ended?, &self.last_words.join().unwrap_or_default()),
        }
    }
}

/// The copy did not come to its end.
fn leave(ended: Ended, last_words: &[u8]) -> Result<u8, Failure> {
    match ended {
        Ended::Left(code) => Ok(code),
        // One that we passed on, or somebody else's in the pod.
        Ended::Outcome(Outcome::Signaled { signal, .. }) => Ok(ended_by(signal)),
        Ended::Outcome(Outcome::Exited { code, .. }) if code > 128 => Ok(ended_by(code - 128)),
        Ended::Outcome(Outcome::Exited { code, .. }) => {
            let words = podbridge_tree::escape_for_terminal(last_words.trim_ascii());
            Err(Failure::new(
                Kind::Agent,
                format!(
                    "the agent's side of the copy ended too early, with {code}: {words}; use the same release on both sides"
                ),
            ))
        }
        Ended::Outcome(outcome) => Ok(conclude(&outcome)),
    }
}

fn ended_by(signal: u8) -> u8 {
    say(&format!(
        "the copy was ended by signal {signal} before it was complete; run it again to go on"
    ));
    128_u8.saturating_add(signal)
}

fn copy(
    open: &TreeOpen,
    path: &Path,
    input: OwnedFd,
    output: OwnedFd,
    temporaries: &Temporaries,
    quiet: bool,
) -> (Result<TreeSummary, Error>, Shown) {
    let mut shown = Shown::new(open, path, quiet);
    let (input, output) = (File::from(input), File::from(output));
    let copied = podbridge_tree::call(open, path, input, output, temporaries, &mut |event| shown.event(event));
    (copied, shown)
}

fn last_words(said: OwnedFd) -> Vec<u8> {
    let (mut said, mut words, mut buffer) = (File::from(said), Vec::new(), [0; LAST_WORDS]);
    while let Ok(count @ 1..) = said.read(&mut buffer) {
        words.extend_from_slice(&buffer[..count]);
        words.drain(..words.len().saturating_sub(LAST_WORDS));
    }
    words
}
