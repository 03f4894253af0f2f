//! `serve`: serves in the foreground, as the container's PID 1 with an init of its own, or as a detached process. It sets the process up
//! and makes the socket; `app` serves on it. `proxy` calls `start_detached`.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use rustix::process::{getpid, setsid};

use crate::config::Serve;
use crate::exec::Store;
use crate::sys::{descriptors, heap, init};
use crate::transport::socket;
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
    let path = socket::path_to_serve(options.socket.path.clone());
    if options.daemon {
        start_detached(&path, options.socket.idle_when_detached(), &options.spool.arguments())?;
        return Ok(ExitCode::SUCCESS);
    }
    heap::restart_without_thread_caches();
    heap::use_one_arena();
    if options.detached {
        // setsid fails only for a process that already leads its process group. A group leader serves as well.
        let _ = setsid();
    }
    telemetry::start();
    let nofile = descriptors::raise_limit();
    // The parent of a detached agent holds the lock.
    let lock = if options.detached {
        Ok(None)
    } else {
        socket::lock(&path).map(Some)
    };
    let listener = lock.and_then(|_lock| socket::bind(&path));
    if options.detached {
        report_readiness(listener.as_ref().map(|_| ()).map_err(ToString::to_string));
    }
    let listener = listener.map_err(|error| error.to_string())?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = runtime.map_err(|error| format!("cannot start the threads of the agent: {error}"))?;
    let directory = options.spool.directory.or_else(|| path.parent().map(Path::to_owned));
    let store = Store::new(directory, u64::from(options.spool.limit) << 20);
    let served = runtime.block_on(app::serve(listener, nofile, store, options.socket.idle()));
    // Nothing listens on the socket any more. A stale one would be replaced, so a failure is harmless.
    let _ = std::fs::remove_file(&path);
    // A thread that hangs in a file system must not keep the process alive.
    runtime.shutdown_background();
    served.map_err(|error| format!("the agent's server failed: {error}"))?;
    Ok(ExitCode::SUCCESS)
}

/// Runs an init in this process, and the same command again as its worker.
fn run_as_init() -> Result<ExitCode, String> {
    let own = env::own_program().map_err(|error| {
        format!("cannot find the path of podbridge-agent itself: {error}; mount /proc in the container")
    })?;
    let mut worker = Command::new(own);
    worker.args(env::arguments().skip(1));
    let code = init::run(worker).map_err(|error| format!("cannot run the agent as init: {error}"))?;
    Ok(ExitCode::from(code))
}

/// Starts a detached agent on the socket, unless an agent listens there; returns when the agent listens. `idle` is in seconds; the agent
/// gets `arguments` besides the socket and the idle time.
pub(super) fn start_detached(path: &Path, idle: u64, arguments: &[OsString]) -> Result<(), String> {
    let _lock = socket::lock(path).map_err(|error| error.to_string())?;
    if socket::connect(path).is_ok() {
        return Ok(());
    }
    let failed = |error: io::Error| format!("cannot start an agent: {error}");
    let own = env::own_program().map_err(failed)?;
    let child = Command::new(own)
        .args(["serve", "--detached", "--idle", &idle.to_string(), "--socket"])
        .arg(path)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let mut child = child.map_err(failed)?;
    let mut answer = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout).read_line(&mut answer).map_err(failed)?;
    }
    match answer.trim_end() {
        READY_MESSAGE => Ok(()),
        "" => Err("cannot start an agent: the new process ended without a message".into()),
        sentence => Err(sentence.to_owned()),
    }
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
