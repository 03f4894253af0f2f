//! `podbridge ssh [USER@]POD COMMAND…`: runs a command in a pod with the command line of ssh, for git (`GIT_SSH_COMMAND`, `GIT_SSH`) and
//! rsync (`-e`). The agent itself serves git's fetch, push and archive, and creates a repository that is pushed to; the pod's shell runs
//! all other commands.

mod arguments;
mod git_request;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

#[cfg(any(test, fuzzing))]
pub(crate) use git_request::check as check_git_line;

use crate::cli::{SshOptions, TargetOptions};
use crate::client::{self, AttachedEnd, Streams};
use crate::commands::bridge_of_pod::bridge_address;
use crate::commands::ssh::arguments::{Session, Terminal};
use crate::commands::ssh::git_request::GitService;
use crate::config::BridgeSettings;
use crate::env::{self, Environment as _, PODBRIDGE_GIT_CACHE, Process};
use crate::error::{FailedKind, Failure};
use crate::protocol::byte_string::ByteString;
use crate::protocol::request::{Exec, Input};
use crate::protocol::result::Outcome;
use crate::report::{conclude, print};
use crate::terminal;

/// Name of this program for `GIT_SSH`, which takes a program without arguments.
pub(super) const GIT_SSH_NAME: &str = "podbridge-ssh";

/// Environment variable with the version of git's protocol; git passes it to the remote host with ssh's `SendEnv`.
const GIT_PROTOCOL: &str = "GIT_PROTOCOL";

/// Directory in the pod that may hold git repositories.
const GIT_CACHE_DEFAULT: &str = "/opt/git";

/// Returns the arguments of this process; called as `podbridge-ssh`, they are those of `podbridge ssh`.
pub(super) fn arguments() -> Vec<OsString> {
    let mut words: Vec<OsString> = env::arguments().collect();
    let name = words.first().map(Path::new).and_then(Path::file_name);
    if name == Some(OsStr::new(GIT_SSH_NAME)) {
        words.insert(1, "ssh".into());
    }
    arguments::normalize(words)
}

pub(super) fn run(target: TargetOptions, options: BridgeSettings, command: SshOptions) -> Result<u8, Failure> {
    // git calls `ssh -G` to find out whether ssh is OpenSSH.
    let session = Session::parse(&command.options)?;
    if session.prints_configuration {
        return Ok(0);
    }
    if command.command.is_empty() {
        return Err(Failure::usage(
            "podbridge ssh needs a command after POD; for an interactive shell use podbridge exec -it POD -- sh",
        ));
    }
    let (user, pod) = match command.host.rsplit_once('@') {
        Some((user, pod)) => (Some(user.to_owned()), pod),
        None => (session.user, &command.host[..]),
    };
    let wants_terminal = session.terminal == Terminal::IfThereIsOne;
    let has_terminal = terminal::stdin_is_terminal() && !session.no_stdin;
    if wants_terminal && !has_terminal && !session.quiet {
        print("Pseudo-terminal will not be allocated because stdin is not a terminal.");
    }
    let pty = session.terminal == Terminal::Always || wants_terminal && has_terminal;
    let line = command.command.join(OsStr::new(" ")).into_vec();
    let protocol = Process.variable(GIT_PROTOCOL);
    let exec = |service: Option<GitService>| Exec {
        agent_program: service.is_some(),
        shell: service.is_none().then(|| ByteString(line.clone())),
        argv: service.map(|service| agent_arguments(service, &command.git_cache)),
        env: protocol
            .iter()
            .map(|value| (ByteString(GIT_PROTOCOL.into()), ByteString(value.as_bytes().to_vec())))
            .chain(session.env.clone())
            .collect(),
        user: user.clone(),
        pty: pty.then(terminal::size),
        stdin: if session.no_stdin { Input::None } else { Input::Stream },
        ..Exec::new()
    };
    let container = target.container.clone();
    let bridge = bridge_address(target, pod, options)?;
    let run_attached = |exec| client::run_attached(bridge.clone(), container.clone(), exec, Streams::standard());
    let service = git_request::parse(&line);
    let agent_serves = service.is_some();
    let ended = match run_attached(exec(service))? {
        // The agent or the bridge is too old for git's services, and nothing has run: the git of the image serves the request.
        AttachedEnd::Outcome(Outcome::Failed {
            kind: FailedKind::Unsupported,
            ..
        }) if agent_serves => run_attached(exec(None))?,
        ended => ended,
    };
    match ended {
        AttachedEnd::Outcome(outcome) => Ok(conclude(&outcome)),
        AttachedEnd::Detached(code) => Ok(code),
    }
}

/// Returns the agent's arguments for a service.
fn agent_arguments(service: GitService, caches: &[PathBuf]) -> Vec<ByteString> {
    let from_environment = Process.variable(PODBRIDGE_GIT_CACHE);
    let caches = match (caches, from_environment) {
        ([], Some(list)) => env::split_paths(&list)
            .filter(|path| !path.as_os_str().is_empty())
            .collect(),
        ([], None) => vec![GIT_CACHE_DEFAULT.into()],
        (caches, _) => caches.to_vec(),
    };
    let mut words: Vec<OsString> = ["podbridge-agent", "git", service.name].map(OsString::from).into();
    for cache in caches {
        words.extend(["--cache".into(), cache.into()]);
    }
    words.extend(["--".into(), OsString::from_vec(service.path)]);
    words.into_iter().map(|word| ByteString(word.into_vec())).collect()
}
