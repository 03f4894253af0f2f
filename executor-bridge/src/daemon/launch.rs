//! How a bridge comes to be: whoever needs one takes the key's lock, finds it or starts this program again as a detached
//! process, and waits until that one listens. The target travels on a pipe: it may hold secrets.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::{serve, socket};
use crate::error::{Failure, Kind};
use crate::place::{Directory, Files};
use crate::protocol::target::Identified;
use crate::{pod, program, sys, telemetry};

/// What is no part of the target.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// `None`: never.
    pub idle: Option<Duration>,
    pub connect_timeout: Duration,
    /// How long a command goes on in the pod when nobody is connected.
    pub lease: Duration,
}

/// Finds or starts the bridge of a target; the path of its socket.
pub(crate) fn launch(target: &Identified, json: &[u8], options: Options) -> Result<PathBuf, Failure> {
    pod::check(&target.target)?;
    let files = Directory::open()?.files(&target.key)?;
    let _lock = socket::lock(&files)?;
    if !socket::is_served(&files)? {
        start(target, json, options, &files)?;
    }
    Ok(files.socket)
}

fn start(target: &Identified, json: &[u8], options: Options, files: &Files) -> Result<(), Failure> {
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

/// The daemon's main program: standard input is the target, standard output the launcher's pipe.
pub(crate) fn run_detached(options: Options) -> Result<(), Failure> {
    // The launcher is no group leader's child that could fail this; a terminal's signals must not reach us.
    let _ = rustix::process::setsid();
    telemetry::start_for_daemon();
    let bound = target_from_stdin().and_then(|target| {
        let files = Directory::open()?.files(&target.key)?;
        Ok((target, socket::bind_locked(&files)?))
    });
    let (target, bound, told) = match bound {
        Ok((target, bound)) => (target, bound, Ok(())),
        Err(failure) => {
            tell_launcher(&Err(failure.clone()));
            return Err(failure);
        }
    };
    tell_launcher(&told);
    let_go_of_caller().map_err(|error| Failure::new(Kind::Bridge, format!("cannot detach: {error}")))?;
    serve::run(target, bound, options, None).map(drop)
}

/// Serves without detaching, for a service manager or a test; prints the socket's path once it listens.
pub(crate) fn run_foreground(
    target: Identified,
    options: Options,
    listening: impl FnOnce(&PathBuf),
) -> Result<(), Failure> {
    telemetry::start_for_daemon();
    pod::check(&target.target)?;
    let files = Directory::open()?.files(&target.key)?;
    let bound = {
        let lock = socket::lock(&files)?;
        if socket::is_served(&files)? {
            return Err(Failure::new(
                Kind::Bridge,
                format!("a bridge serves {} already; stop it first", files.socket.display()),
            ));
        }
        socket::bind(&files, &lock)?
    };
    listening(&files.socket);
    serve::run(target, bound, options, None).map(drop)
}

fn target_from_stdin() -> Result<Identified, Failure> {
    let mut json = Vec::new();
    std::io::stdin()
        .lock()
        .read_to_end(&mut json)
        .map_err(|error| Failure::usage(format!("the target on standard input cannot be read: {error}")))?;
    Identified::parse(&json)
}

fn tell_launcher(answer: &Result<(), Failure>) {
    let mut stdout = std::io::stdout();
    let json = serde_json::to_string(answer).unwrap_or_default();
    // A launcher that has gone needs no answer.
    let _ = writeln!(stdout, "{json}").and_then(|()| stdout.flush());
}

/// Standard input and output become /dev/null, the working directory `/`: nothing of the caller is kept busy.
fn let_go_of_caller() -> std::io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    std::env::set_current_dir("/")
}
