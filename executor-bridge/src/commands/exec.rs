//! `podbridge exec`: runs a command in a pod with the standard streams, signals and terminal of this process; the exit code is the
//! command's.

use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::time::Duration;

use crate::cli::{ExecOptions, TargetOptions};
use crate::client::{self, AttachedEnd, Streams};
use crate::commands::bridge_of_pod::bridge_address;
use crate::config::BridgeSettings;
use crate::error::Failure;
use crate::protocol::byte_string::ByteString;
use crate::protocol::request::{Exec, Input};
use crate::protocol::result::Outcome;
use crate::report::{conclude, print, say};
use crate::terminal;

pub(super) fn run(target: TargetOptions, options: BridgeSettings, command: ExecOptions) -> Result<u8, Failure> {
    let container = target.container.clone();
    let bridge = bridge_address(target, &command.pod, options)?;
    let has_terminal = terminal::stdin_is_terminal();
    // As with kubectl exec: without -i the command reads nothing, so that it leaves the input of a loop around it alone, and a terminal
    // needs -i and a terminal on this side, so that no byte of a log changes.
    let tty = command.tty && command.stdin && has_terminal;
    if command.tty && !has_terminal {
        print(terminal::UNUSABLE);
    } else if command.tty && !tty {
        say("-t has no effect without -i; use -it");
    }
    let exec = exec(command, tty)?;
    match client::run_attached(bridge, container, exec, Streams::standard())? {
        AttachedEnd::Outcome(outcome) => {
            if let Outcome::Exited { held_open: true, .. } | Outcome::Signaled { held_open: true, .. } = outcome {
                say(
                    "the command exited, but a background process in the pod still holds its output; that output is discarded",
                );
            }
            Ok(conclude(&outcome))
        }
        AttachedEnd::Detached(code) => Ok(code),
    }
}

/// Returns the request for the bridge.
fn exec(command: ExecOptions, tty: bool) -> Result<Exec, Failure> {
    let byte_string = |text: std::ffi::OsString| ByteString(text.into_vec());
    let env = command.env.into_iter().map(|pair| {
        let bytes = pair.as_bytes();
        match bytes.iter().position(|byte| *byte == b'=') {
            Some(at) if at > 0 => Ok((ByteString(bytes[..at].to_vec()), ByteString(bytes[at + 1..].to_vec()))),
            _ => Err(Failure::usage("--env needs a value of the form NAME=VALUE")),
        }
    });
    let timeout = command.timeout.map(Duration::try_from_secs_f64).transpose();
    let timeout = timeout.map_err(|error| Failure::usage(format!("--timeout: {error}")))?;
    Ok(Exec {
        argv: Some(command.command.into_iter().map(byte_string).collect()),
        env: env.collect::<Result<_, _>>()?,
        cwd: command.cwd.map(|cwd| byte_string(cwd.into())),
        user: command.user,
        pty: tty.then(terminal::size),
        timeout_ms: timeout.map(|timeout| (timeout.as_millis() as u64).max(1)),
        stdin: if command.stdin { Input::Stream } else { Input::None },
        ..Exec::new()
    })
}
