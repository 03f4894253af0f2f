//! The daemon's main program, detached by a launcher or in the foreground. `launch` starts the first as a process, the command
//! `bridge` calls both.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

use crate::config::BridgeSettings;
use crate::daemon::serve;
use crate::error::{Failure, Kind};
use crate::launch::tell_launcher;
use crate::protocol::target::KeyedTarget;
use crate::session::Session;
use crate::sockets::{self, Directory};
use crate::{pod, telemetry};

/// The daemon's main program: standard input is the target, standard output the launcher's pipe.
pub(crate) fn run_detached(options: BridgeSettings) -> Result<(), Failure> {
    // The launcher is no group leader's child that could fail this; a terminal's signals must not reach us.
    let _ = rustix::process::setsid();
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
    serve::run(target, bound, options, Session::new, |_, _| Ok(())).map(drop)
}

/// Serves without detaching, for a service manager or a test; prints the socket's path once it listens.
pub(crate) fn run_foreground(
    target: KeyedTarget,
    options: BridgeSettings,
    listening: impl FnOnce(&PathBuf),
) -> Result<(), Failure> {
    telemetry::start_for_daemon();
    pod::check(&target.target)?;
    let files = Directory::open()?.files(&target.key)?;
    let bound = {
        let lock = sockets::lock(&files)?;
        if sockets::is_served(&files)? {
            return Err(Failure::new(
                Kind::Bridge,
                format!("a bridge serves {} already; stop it first", files.socket.display()),
            ));
        }
        sockets::bind(&files, &lock)?
    };
    listening(&files.socket);
    serve::run(target, bound, options, Session::new, |_, _| Ok(())).map(drop)
}

fn target_from_stdin() -> Result<KeyedTarget, Failure> {
    let mut json = Vec::new();
    std::io::stdin()
        .lock()
        .read_to_end(&mut json)
        .map_err(|error| Failure::usage(format!("the target on standard input cannot be read: {error}")))?;
    KeyedTarget::parse(&json)
}

/// Standard input and output become /dev/null, the working directory `/`: nothing of the caller is kept busy.
fn detach_from_caller() -> std::io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    Ok(rustix::process::chdir("/")?)
}
