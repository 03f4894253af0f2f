//! The kubectl shim: this program under the name `kubectl` or `oc`, first in PATH. It serves the calls that Zuul makes for the pods of a
//! build, and runs the next program of that name for all others, within two milliseconds. `commands::run` calls it before anything else.

mod arguments;
mod exec;
mod invocation;
mod next;
mod port_forward;

use std::process::ExitCode;

use crate::env::{self, Environment as _, PODBRIDGE_DISABLE, Process};
use crate::exit::KUBECTL_FAILED;
pub(crate) use crate::kubectl_shim::arguments::ParsedCommand;
use crate::kubectl_shim::invocation::Invocation;
use crate::report::say;
use crate::sockets::ZuulSlot;
#[cfg(any(test, fuzzing))]
pub(crate) use arguments::check as check_arguments;
#[cfg(test)]
pub(crate) use arguments::parse as parse_arguments;

/// Runs the shim and returns its exit code; `None` if this process was not called as kubectl or oc.
pub(crate) fn intercept() -> Option<ExitCode> {
    Invocation::parse(env::arguments()).map(|invocation| serve(&invocation))
}

/// Serves the call, or becomes the next program.
fn serve(invocation: &Invocation) -> ExitCode {
    let disabled = Process.variable(PODBRIDGE_DISABLE).is_some_and(|value| value != "0");
    let command = if disabled {
        ParsedCommand::Other
    } else {
        arguments::parse(&invocation.arguments)
    };
    let served = match command {
        ParsedCommand::PortForward { pod, ports } => match pod.kubeconfig(&Process) {
            Some(file) => match ZuulSlot::locate(&file, &pod, &Process) {
                Ok(slot) => {
                    port_forward::drop_environment(invocation);
                    port_forward::run(slot, ports)
                }
                // The build is over. Exit code 0 ends Zuul's restart loop, also if Zuul itself is gone and cannot end it.
                Err(_) if !file.exists() => Ok(0),
                Err(failure) => Ok(port_forward::fail_after_pause(&failure)),
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
