//! `kubectl port-forward pod/X P1:19885 P2:19886`: Zuul keeps this call running for each pod of a build. The shim serves it by being the
//! bridge of that pod.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use crate::env::{Environment as _, Process, is_for_bridge};
use crate::error::Failure;
use crate::exit::KUBECTL_FAILED;
use crate::kubectl_shim::arguments::Ports;
use crate::kubectl_shim::invocation::Invocation;
use crate::report::say;
use crate::shutdown::ShutdownReason;
use crate::sockets::ZuulSlot;
use crate::{config, daemon, program};

/// Pause before a failed call exits: Zuul repeats it at once and without end.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);

/// Starts this program again without the variables that a bridge does not need: Zuul's environment may hold secrets, and this process runs
/// for as long as the build. Returns if there are none, or if the program cannot be started.
pub(super) fn drop_environment(invocation: &Invocation) {
    let variables = Process.variables();
    let kept = variables.iter().filter(|(name, _)| is_for_bridge(name));
    if kept.clone().count() == variables.len() {
        return;
    }
    let mut command = Command::new(program::path_to_start());
    let error = command
        .arg0(&invocation.argv0)
        .args(&invocation.arguments)
        .env_clear()
        .envs(kept.map(|(name, value)| (name, value)))
        .exec();
    say(&format!("the environment is kept: {error}"));
}

/// Runs the bridge until it ends. The exit code is 0 only if the build is over: after any other code Zuul starts the call again.
pub(super) fn run(slot: ZuulSlot, ports: Ports) -> Result<u8, Failure> {
    let lease = match config::lease(&Process) {
        Ok(lease) => lease,
        Err(failure) => return Ok(fail_after_pause(&failure)),
    };
    let slot = daemon::SlotBridge {
        target: slot.target,
        socket: slot.socket,
        kubeconfig: slot.kubeconfig,
        ports: [ports.console, ports.windows],
        lease,
    };
    match daemon::run_in_slot(slot, || announce(ports)) {
        Ok(ShutdownReason::BuildEnded) => Ok(0),
        // Zuul starts the next bridge at once, perhaps of a newer release.
        Ok(_) => Ok(KUBECTL_FAILED),
        Err(failure) => Ok(fail_after_pause(&failure)),
    }
}

/// Prints why there is no bridge, and waits, so that Zuul's loop does not spin.
pub(super) fn fail_after_pause(failure: &Failure) -> u8 {
    say(&failure.message);
    sleep(FAILURE_PAUSE);
    KUBECTL_FAILED
}

/// Prints kubectl's lines. Zuul waits for the first one and reads no others.
fn announce(ports: Ports) {
    let lines = format!(
        "Forwarding from 127.0.0.1:{} -> 19885\nForwarding from 127.0.0.1:{} -> 19886\n",
        ports.console, ports.windows
    );
    let mut stdout = std::io::stdout();
    // A failure is ignored: the caller has closed standard output.
    let _ = stdout.write_all(lines.as_bytes()).and_then(|()| stdout.flush());
}
