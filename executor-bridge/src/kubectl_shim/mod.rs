//! The `kubectl` and `oc` that come first in PATH: this binary by another name. Serves what Zuul's slot is made of, and leaves
//! the rest to the next program of that name, within two milliseconds. `commands::run` asks it before anything else.

mod arguments;
mod exec;
mod invocation;
mod next;
mod port_forward;

use std::process::ExitCode;

use crate::env::{self, Environment as _, PODBRIDGE_DISABLE, Process};
use crate::exit::KUBECTL_FAILED;
use crate::kubectl_shim::arguments::ParsedCommand;
use crate::kubectl_shim::invocation::Invocation;
use crate::report::say;
use crate::sockets::ZuulSlot;

/// `None`: we were not called as kubectl.
pub(crate) fn intercept() -> Option<ExitCode> {
    Invocation::parse(env::arguments()).map(|invocation| serve(&invocation))
}

fn serve(invocation: &Invocation) -> ExitCode {
    let disabled = Process.variable(PODBRIDGE_DISABLE).is_some_and(|value| value != "0");
    let command = match disabled {
        true => ParsedCommand::Other,
        false => arguments::parse(&invocation.arguments),
    };
    let served = match command {
        ParsedCommand::PortForward { pod, ports } => match pod.kubeconfig(&Process) {
            Some(file) => match ZuulSlot::locate(&file, &pod, &Process) {
                Ok(slot) => port_forward::run(slot, ports),
                // The build is over: Zuul's loop ends with us, also where nobody is left to kill it.
                Err(_) if !file.exists() => Ok(0),
                Err(failure) => Ok(port_forward::fail(&failure)),
            },
            None => return next::pass_on(invocation),
        },
        ParsedCommand::Exec { pod, exec } => match pod.served_slot(&Process) {
            Some(slot) => match exec::run(slot, exec).transpose() {
                Some(served) => served,
                None => return next::pass_on(invocation),
            },
            None => return next::pass_on(invocation),
        },
        ParsedCommand::Other => return next::pass_on(invocation),
    };
    ExitCode::from(served.unwrap_or_else(|failure| {
        say(&failure.message);
        KUBECTL_FAILED
    }))
}
