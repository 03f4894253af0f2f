//! How a bridge comes to be: whoever needs one takes the key's lock, finds it or starts this program again as a detached
//! process, and waits until that one listens. The target travels on a pipe: it may hold secrets.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::config::BridgeSettings;
use crate::error::{Failure, Kind};
use crate::protocol::target::KeyedTarget;
use crate::sockets::{self, BridgeFiles, Directory};
use crate::{pod, program, sys};

/// Finds or starts the bridge of a target; the path of its socket.
pub(crate) fn launch(target: &KeyedTarget, json: &[u8], options: BridgeSettings) -> Result<PathBuf, Failure> {
    pod::check(&target.target)?;
    let files = Directory::open()?.files(&target.key)?;
    let _lock = sockets::lock(&files)?;
    if !sockets::is_served(&files)? {
        start(target, json, options, &files)?;
    }
    Ok(files.socket)
}

fn start(target: &KeyedTarget, json: &[u8], options: BridgeSettings, files: &BridgeFiles) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::new(Kind::Bridge, format!("cannot start a bridge: {error}"));
    let log = files.log_file().map_err(failed)?;
    sys::close_all_on_exec().map_err(failed)?;
    let mut child = Command::new(program::to_start())
        .arg("bridge")
        .arg("--detached")
        .args(["--idle", &options.idle.unwrap_or_default().as_secs().to_string()])
        .args([
            "--connect-timeout",
            &options.connect_timeout.as_secs().max(1).to_string(),
        ])
        .envs(&target.target.env)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A child that has died says so below.
        let _ = stdin.write_all(json);
    }
    let mut answer = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut answer).map_err(failed)?;
    }
    match serde_json::from_str::<Result<(), Failure>>(answer.trim_end()) {
        Ok(started) => started,
        Err(_) => Err(Failure::new(
            Kind::Bridge,
            format!("the bridge ended while it started; see {}", files.log().display()),
        )),
    }
}

pub(crate) fn tell_launcher(answer: &Result<(), Failure>) {
    let mut stdout = std::io::stdout();
    let json = serde_json::to_string(answer).unwrap_or_default();
    // A launcher that has gone needs no answer.
    let _ = writeln!(stdout, "{json}").and_then(|()| stdout.flush());
}
