//! `serve`: serves in the foreground, as the container's PID 1 with an init of its own, or as a detached process. It sets the process up
//! and makes the socket; `app` serves on it. `proxy` calls `start_detached`.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

use rustix::process::{getpid, setsid};

use crate::config::Serve;
use crate::env::{OWN_PROGRAM, PROCESS_NAME};
use crate::exec::Store;
use crate::sys::{descriptors, heap, init, limits};
use crate::transport::choice::Choice;
use crate::{app, env, telemetry};

/// Line that a detached agent writes to the parent that waits for it, once it listens.
const READY_MESSAGE: &str = "ready";

pub(super) fn run(options: Serve) -> Result<ExitCode, String> {
    // Commands would inherit these descriptors as well.
    descriptors::close_inherited();
    if getpid().is_init() {
        return run_as_init();
    }
    init::unblock_signals();
    let choice = options.socket.choice();
    if options.daemon {
        let mut command = detached_command();
        command.args(options.spool.arguments()).args(options.python.arguments());
        start_detached(command, &choice, options.socket.idle_when_detached())?;
        return Ok(ExitCode::SUCCESS);
    }
    heap::restart_without_thread_caches();
    heap::set_up();
    if options.detached {
        // setsid fails only for a process that already leads its process group. A group leader serves as well.
        let _ = setsid();
    }
    telemetry::start();
    let limits = limits::adapt();
    // The parent of a detached agent holds the lock.
    let socket = choice.to_serve();
    let directory = socket.path.parent().map(Path::to_owned);
    let lock = if options.detached {
        Ok(None)
    } else {
        socket.lock().map(Some)
    };
    let bound = lock.and_then(|_lock| socket.bind());
    if options.detached {
        report_readiness(bound.as_ref().map(|_| ()).map_err(ToString::to_string));
    }
    let bound = bound.map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| format!("cannot start the threads of the agent: {error}"))?;
    let directory = options.spool.directory.or(directory);
    let store = Store::new(directory, u64::from(options.spool.limit) << 20);
    let served = runtime.block_on(app::serve(
        bound,
        limits,
        store,
        options.python.is_warm(),
        options.socket.idle(),
    ));
    // A thread that hangs in a file system must not keep the process alive.
    runtime.shutdown_background();
    served.map_err(|error| format!("the agent's server failed: {error}"))?;
    Ok(ExitCode::SUCCESS)
}

/// Runs an init in this process, and the same command again as its worker.
fn run_as_init() -> Result<ExitCode, String> {
    let mut worker = own_program();
    worker.args(env::arguments().skip(1));
    let code = init::run(worker).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "cannot find podbridge-agent itself; mount /proc in the container".to_owned(),
        _ => format!("cannot run the agent as init: {error}"),
    })?;
    Ok(ExitCode::from(code))
}

/// Returns the command for a detached agent; the caller may add options and change its environment.
pub(super) fn detached_command() -> Command {
    let mut command = own_program();
    command.args(["serve", "--detached"]);
    command
}

/// Returns a command that runs this program again, under the name by which people look for it in `ps`.
fn own_program() -> Command {
    let mut command = Command::new(OWN_PROGRAM);
    command.arg0(OsStr::from_bytes(PROCESS_NAME.to_bytes()));
    command
}

/// Starts a detached agent, unless an agent listens on the socket; returns when it listens. `idle` is in seconds. The caller gets the
/// process, because the parent alone can reap it; `None`: no process was started.
pub(super) fn start_detached(mut command: Command, choice: &Choice, idle: u64) -> Result<Option<Child>, String> {
    let socket = choice.to_serve();
    let _lock = socket.lock().map_err(|error| error.to_string())?;
    if choice.connect().is_ok() {
        return Ok(None);
    }
    let (option, path) = socket.option();
    let child = command
        .args(["--idle", &idle.to_string(), option])
        .arg(path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut child = child.map_err(cannot_start)?;
    let mut answer = String::new();
    let read = match child.stdout.take() {
        Some(stdout) => BufReader::new(stdout).read_line(&mut answer),
        None => Ok(0),
    };
    let failure = match (read, answer.trim_end()) {
        (Ok(_), READY_MESSAGE) => return Ok(Some(child)),
        (Ok(_), "") => "cannot start an agent: the new process ended without a message".into(),
        (Ok(_), sentence) => sentence.to_owned(),
        (Err(error), _) => cannot_start(error),
    };
    // It ends by itself after an error. Reap it: the container's first process may reap nothing.
    let _ = child.wait();
    Err(failure)
}

fn cannot_start(error: io::Error) -> String {
    format!("cannot start an agent: {error}")
}

/// Writes readiness or an error to the waiting parent, then closes the pipe to it.
fn report_readiness(bound: Result<(), String>) {
    let mut stdout = io::stdout();
    let answer = bound.err().unwrap_or_else(|| READY_MESSAGE.into());
    // A parent that has ended needs no answer.
    let _ = writeln!(stdout, "{answer}").and_then(|()| stdout.flush());
    if let Ok(null) = std::fs::File::options().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(&null);
    }
}
