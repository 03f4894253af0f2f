//! The main program of a bridge that was started on demand, detached by a launcher or in the foreground. The command
//! `bridge` calls both; `launch` starts the detached one as a process.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::BridgeSettings;
use crate::daemon::{job_console, serve};
use crate::error::{Failure, Kind};
use crate::launch::tell_launcher;
use crate::protocol::target::KeyedTarget;
use crate::session::Session;
use crate::shutdown::Shutdown;
use crate::sockets::{self, BoundSocket, Directory};
use crate::{pod, sys, telemetry};

/// Runs the detached daemon. Standard input carries the target, standard output is the launcher's pipe.
pub(crate) fn run_detached(options: BridgeSettings) -> Result<(), Failure> {
    // A session of its own keeps a terminal's signals away. setsid cannot fail here, because this process leads no
    // process group.
    let _ = rustix::process::setsid();
    keep_no_limits_of_caller();
    sys::keep_memory_private();
    telemetry::start_for_daemon();
    let bound = target_from_stdin().and_then(|target| {
        let files = Directory::open()?.files(&target.key)?;
        Ok((target, sockets::bind_locked(&files)?))
    });
    let (target, bound, answer) = match bound {
        Ok((target, bound)) => (target, bound, Ok(())),
        Err(failure) => {
            tell_launcher(&Err(failure.clone()));
            return Err(failure);
        }
    };
    tell_launcher(&answer);
    detach_from_caller().map_err(|error| Failure::new(Kind::Bridge, format!("cannot detach: {error}")))?;
    serve(target, bound, options)
}

/// Runs in the foreground, for a service manager or a test. Calls `listening` with the socket's path once the bridge
/// listens.
pub(crate) fn run_foreground(
    target: KeyedTarget,
    options: BridgeSettings,
    listening: impl FnOnce(&PathBuf),
) -> Result<(), Failure> {
    sys::keep_memory_private();
    telemetry::start_for_daemon();
    pod::check(&target.target)?;
    let files = Directory::open()?.files(&target.key)?;
    let bound = {
        let lock = sockets::lock(&files)?;
        if sockets::is_served(&files)? {
            return Err(Failure::new(
                Kind::Bridge,
                format!("a bridge already serves {}; stop it first", files.socket.display()),
            ));
        }
        sockets::bind(&files, &lock)?
    };
    listening(&files.socket);
    serve(target, bound, options)
}

/// Serves until the bridge must end or was unused for long enough.
fn serve(target: KeyedTarget, bound: BoundSocket, options: BridgeSettings) -> Result<(), Failure> {
    let Some(address) = target.target.console else {
        return serve::run(target, bound, options, Session::new, |_, _| Ok(())).map(drop);
    };
    let start = |session: &Arc<Session>, _: &Shutdown| {
        job_console::start(address, session);
        Ok(())
    };
    serve::run(target, bound, options, Session::with_live_log, start).map(drop)
}

/// Sets what a process inherits beside its environment to what every caller would give: files that a credential plugin makes, and the
/// number of descriptors, must not depend on the first caller.
fn keep_no_limits_of_caller() {
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // A failure is ignored: the limit that there is will do.
    let _ = setrlimit(Resource::Nofile, raised);
}

fn target_from_stdin() -> Result<KeyedTarget, Failure> {
    let mut json = Vec::new();
    std::io::stdin()
        .lock()
        .read_to_end(&mut json)
        .map_err(|error| Failure::usage(format!("the target on standard input cannot be read: {error}")))?;
    KeyedTarget::parse(&json)
}

/// Replaces standard input and output by /dev/null and changes to `/`, so that no file of the caller stays in use.
fn detach_from_caller() -> std::io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(rustix::process::chdir("/")?)
}
