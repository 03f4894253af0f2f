//! `kubectl port-forward pod/X P1:19885 P2:19886`, which Zuul keeps running for each pod of a build, is the bridge of that pod.

use std::io::Write as _;
use std::thread::sleep;
use std::time::Duration;

use crate::env::Process;
use crate::error::Failure;
use crate::exit::KUBECTL_FAILED;
use crate::kubectl_shim::arguments::Ports;
use crate::report::say;
use crate::shutdown::Why;
use crate::sockets::ZuulSlot;
use crate::{config, daemon};

/// Zuul tries again for ever, and at once.
const PAUSE: Duration = Duration::from_secs(1);

/// Exit code 0 only when the build is over: Zuul starts it again after any other.
pub(super) fn run(slot: ZuulSlot, ports: Ports) -> Result<u8, Failure> {
    let lease = match config::lease(&Process) {
        Ok(lease) => lease,
        Err(failure) => return Ok(fail(&failure)),
    };
    let slot = daemon::SlotBridge {
        target: slot.target,
        socket: slot.socket,
        kubeconfig: slot.kubeconfig,
        ports: [ports.console, ports.windows],
        lease,
    };
    match daemon::run_in_slot(slot, || announce(ports)) {
        Ok(Why::BuildOver) => Ok(0),
        // Another one, perhaps of a newer release, is started at once.
        Ok(_) => Ok(KUBECTL_FAILED),
        Err(failure) => Ok(fail(&failure)),
    }
}

/// Says why there is no bridge, and lets Zuul's loop rest.
pub(super) fn fail(failure: &Failure) -> u8 {
    say(&failure.message);
    sleep(PAUSE);
    KUBECTL_FAILED
}

/// As kubectl says it. Zuul waits for the first line, and reads no other.
fn announce(ports: Ports) {
    let lines = format!(
        "Forwarding from 127.0.0.1:{} -> 19885\nForwarding from 127.0.0.1:{} -> 19886\n",
        ports.console, ports.windows
    );
    let mut stdout = std::io::stdout();
    // A caller that has gone ends us.
    let _ = stdout.write_all(lines.as_bytes()).and_then(|()| stdout.flush());
}
