//! `serve`: in the foreground, as the container's PID 1, or detached.

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

/// What a detached agent tells the parent that waits for it.
const READY_MESSAGE: &str = "ready";

pub(super) fn run(options: Serve) -> Result<ExitCode, String> {
    // Also for the sake of the commands: whatever was left open here would be open in each of them.
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
        // Fails only for a process that leads its group already, which is as good.
        let _ = setsid();
    }
    telemetry::start();
    let nofile = descriptors::raise_limit();
    // A detached agent starts under its parent's lock.
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
    let runtime = runtime.map_err(|error| format!("no threads: {error}"))?;
    let directory = options.spool.directory.or_else(|| path.parent().map(Path::to_owned));
    let store = Store::new(directory, u64::from(options.spool.limit) << 20);
    let served = runtime.block_on(app::serve(listener, nofile, store, options.socket.idle()));
    // Nobody listens any more; a leftover would only be found stale.
    let _ = std::fs::remove_file(&path);
    // A thread that still hangs in a file system must not keep the process.
    runtime.shutdown_background();
    served.map_err(|error| format!("the server failed: {error}"))?;
    Ok(ExitCode::SUCCESS)
}

/// PID 1: an init, and this same command as its worker.
fn run_as_init() -> Result<ExitCode, String> {
    let own = env::own_program().map_err(|error| format!("cannot find my own program: {error}"))?;
    let mut worker = Command::new(own);
    worker.args(env::arguments().skip(1));
    let code = init::run(worker).map_err(|error| format!("the init failed: {error}"))?;
    Ok(ExitCode::from(code))
}

/// Starts a detached agent on the socket, unless one listens there; returns when it listens.
pub(super) fn start_detached(path: &Path, idle: u64, more: &[OsString]) -> Result<(), String> {
    let _lock = socket::lock(path).map_err(|error| error.to_string())?;
    if socket::connect(path).is_ok() {
        return Ok(());
    }
    let failed = |error: io::Error| format!("cannot start an agent: {error}");
    let own = env::own_program().map_err(failed)?;
    let child = Command::new(own)
        .args(["serve", "--detached", "--idle", &idle.to_string(), "--socket"])
        .arg(path)
        .args(more)
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
        "" => Err("cannot start an agent: it ended without a word".into()),
        sentence => Err(sentence.to_owned()),
    }
}

/// Tells the waiting parent, then lets go of its pipe.
fn report_readiness(bound: Result<(), String>) {
    let mut stdout = io::stdout();
    let answer = bound.err().unwrap_or_else(|| READY_MESSAGE.into());
    // A parent that has gone needs no answer.
    let _ = writeln!(stdout, "{answer}").and_then(|()| stdout.flush());
    if let Ok(null) = std::fs::File::options().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(&null);
    }
}
