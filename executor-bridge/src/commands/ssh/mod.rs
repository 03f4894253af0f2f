//! `podbridge ssh [USER@]POD COMMAND…`: a pod where ssh would have a machine, for git (`GIT_SSH_COMMAND`, `GIT_SSH`) and rsync (`-e`).
//! Git's own services are run by the agent, which makes repositories that are pushed to; all else by the pod's shell.

mod git_request;

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use crate::commands::ssh::git_request::Service;
use crate::config::BridgeSettings;
use crate::env::{self, PODBRIDGE_GIT_CACHE};
use crate::report::conclude;

use crate::cli::{SshOptions, TargetOptions};
use crate::client::{self, Ended, Streams};
use crate::commands::bridge_of_pod::bridge_address;
use crate::env::{Environment as _, Process};
use crate::error::{FailedKind, Failure};
use crate::protocol::byte_string::ByteString;
use crate::protocol::request::{Exec, Input};
use crate::protocol::result::Outcome;
use crate::protocol::target::hex;
use crate::{random, terminal};

/// The name for `GIT_SSH`, which takes no arguments.
pub(super) const NAME: &str = "podbridge-ssh";

/// What git wants to be told, by ssh's `SendEnv`: the version of its protocol.
const SENT: &str = "GIT_PROTOCOL";

const CACHE: &str = "/opt/git";

/// Our own words, as if we had been called by our own name.
pub(super) fn words() -> Vec<OsString> {
    let mut words: Vec<OsString> = env::arguments().collect();
    let name = words.first().map(Path::new).and_then(Path::file_name);
    if name == Some(OsStr::new(NAME)) {
        words.insert(1, "ssh".into());
    }
    words
}

pub(super) fn run(target: TargetOptions, options: BridgeSettings, command: SshOptions) -> Result<u8, Failure> {
    // Git asks so whether we know what OpenSSH knows.
    if command.print_configuration {
        return Ok(0);
    }
    if command.command.is_empty() {
        return Err(Failure::usage(
            "podbridge ssh runs a command: write it behind the pod, or use podbridge exec -t POD -- sh for a shell",
        ));
    }
    let (user, pod) = match command.host.rsplit_once('@') {
        Some((user, pod)) => (Some(user.to_owned()), pod),
        None => (command.login_name, &command.host[..]),
    };
    let line = command.command.join(OsStr::new(" ")).into_vec();
    let protocol = Process.variable(SENT);
    let exec = |service: Option<Service>| Exec {
        exec_id: Some(hex(&random::bytes::<16>())),
        agent_program: service.is_some(),
        shell: service.is_none().then(|| ByteString(line.clone())),
        argv: service.map(|service| served(service, &command.git_cache)),
        env: protocol
            .iter()
            .map(|value| (ByteString(SENT.into()), ByteString(value.as_bytes().to_vec())))
            .collect(),
        user: user.clone(),
        pty: command.tty.then(terminal::size),
        stdin: Input::Stream,
        ..Exec::default()
    };
    let container = target.container.clone();
    let bridge = bridge_address(target, pod, options)?;
    let attend = |exec| client::attend(bridge.clone(), container.clone(), exec, Streams::standard());
    let service = git_request::service(&line);
    let served = service.is_some();
    let ended = match attend(exec(service))? {
        // An older agent or bridge, and nothing has run: git then finds what is there already.
        Ended::Outcome(Outcome::Failed {
            kind: FailedKind::Unsupported,
            ..
        }) if served => attend(exec(None))?,
        ended => ended,
    };
    match ended {
        Ended::Outcome(outcome) => Ok(conclude(&outcome)),
        Ended::Left(code) => Ok(code),
    }
}

/// The agent's words for a service.
fn served(service: Service, caches: &[PathBuf]) -> Vec<ByteString> {
    let set = Process.variable(PODBRIDGE_GIT_CACHE);
    let caches = match (caches, set) {
        ([], Some(list)) => env::split_paths(&list)
            .filter(|path| !path.as_os_str().is_empty())
            .collect(),
        ([], None) => vec![CACHE.into()],
        (given, _) => given.to_vec(),
    };
    let mut words: Vec<OsString> = ["podbridge-agent", "git", service.name].map(OsString::from).into();
    for cache in caches {
        words.extend(["--cache".into(), cache.into()]);
    }
    words.extend(["--".into(), OsString::from_vec(service.path)]);
    words.into_iter().map(|word| ByteString(word.into_vec())).collect()
}
