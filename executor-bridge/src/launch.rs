//! Finds or starts the bridge of a target, and reports the start to the launcher. The launcher takes the lock of the target's key, starts
//! this program again as a detached process if no bridge runs, and waits until that process listens. The target travels through a pipe,
//! not in the arguments, because it may hold secrets. `client` and `podbridge bridge` call it, and the daemon reports its start with it.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::config::BridgeSettings;
use crate::env::{Environment as _, PATH, PODBRIDGE_DIR, PODBRIDGE_LOG, Process, XDG_RUNTIME_DIR, is_for_bridge};
use crate::error::{Failure, Kind};
use crate::protocol::target::KeyedTarget;
use crate::sockets::{self, BridgeFiles, Directory};
use crate::{pod, program, sys};

/// Finds or starts the bridge of a target; returns the path of its socket. `json` is the target as the client wrote it.
pub(crate) fn find_or_start(target: &KeyedTarget, json: &[u8], options: BridgeSettings) -> Result<PathBuf, Failure> {
    pod::check(&target.target)?;
    let files = Directory::open()?.files(&target.key)?;
    let _lock = sockets::lock(&files)?;
    if !sockets::is_served(&files)? {
        start(target, json, options, &files)?;
    }
    Ok(files.socket)
}

/// Starts the bridge and waits until it listens. The caller holds the lock.
fn start(target: &KeyedTarget, json: &[u8], options: BridgeSettings, files: &BridgeFiles) -> Result<(), Failure> {
    let start_failed =
        |error: std::io::Error| Failure::new(Kind::Bridge, format!("the bridge cannot be started: {error}"));
    // Without a log the bridge runs as well: its file system may be full.
    let log = files.log_file().map_or_else(|_| Stdio::null(), Stdio::from);
    sys::close_all_on_exec().map_err(start_failed)?;
    let mut child = Command::new(program::path_to_start())
        .arg("bridge")
        .arg("--detached")
        .args(["--idle", &options.idle.unwrap_or_default().as_secs().to_string()])
        .args([
            "--connect-timeout",
            &options.connect_timeout.as_secs().max(1).to_string(),
        ])
        // The bridge keeps nothing of its first caller: the target holds the variables that count, secrets among them, and travels
        // through a pipe.
        .env_clear()
        .envs(
            target
                .target
                .env
                .iter()
                .filter(|(name, _)| is_for_bridge(OsStr::new(name))),
        )
        .envs(location_variables())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(start_failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A failure is ignored: a dead child gives no answer below.
        let _ = stdin.write_all(json);
    }
    let mut answer = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut answer).map_err(start_failed)?;
    }
    match serde_json::from_str::<Result<(), Failure>>(answer.trim_end()) {
        Ok(started) => started,
        Err(_) => Err(Failure::new(
            Kind::Bridge,
            format!(
                "the bridge ended while it started; see its log {}",
                files.log().display()
            ),
        )),
    }
}

/// Returns the variables that say where bridges have their sockets and logs, and where programs are. All clients of a directory share them.
/// The link kubectl looks for its program in PATH; whichever it finds has no other rights.
fn location_variables() -> impl Iterator<Item = (&'static str, OsString)> {
    let names = [PATH, PODBRIDGE_DIR, PODBRIDGE_LOG, XDG_RUNTIME_DIR];
    names
        .into_iter()
        .filter_map(|name| Some((name, Process.variable(name)?)))
}

/// Sends the result of the start to the launcher, which waits at the other end of standard output. The daemon calls it once.
pub(crate) fn tell_launcher(answer: &Result<(), Failure>) {
    let mut stdout = std::io::stdout();
    let json = serde_json::to_string(answer).unwrap_or_default();
    // A failure is ignored: the launcher is gone.
    let _ = writeln!(stdout, "{json}").and_then(|()| stdout.flush());
}
