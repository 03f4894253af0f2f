//! `podbridge exec`: a command in a pod with our own standard streams, signals and terminal. Ends with its exit code.

use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::time::Duration;

use crate::cli::{ExecOptions, TargetOptions};
use crate::client::{self, Ended, Streams};
use crate::commands::bridge_of_pod::bridge_address;
use crate::config::BridgeSettings;
use crate::error::Failure;
use crate::protocol::byte_string::ByteString;
use crate::protocol::request::{Exec, Input};
use crate::protocol::result::Outcome;
use crate::protocol::target::hex;
use crate::report::{conclude, say};
use crate::{random, terminal};

pub(super) fn run(target: TargetOptions, options: BridgeSettings, command: ExecOptions) -> Result<u8, Failure> {
    let container = target.container.clone();
    let bridge = bridge_address(target, &command.pod, options)?;
    let takes_stdin = command.stdin || command.tty || !terminal::stdin_is_terminal();
    let exec = exec(command, takes_stdin)?;
    match client::attend(bridge, container, exec, Streams::standard())? {
        Ended::Outcome(outcome) => {
            if let Outcome::Exited { held_open: true, .. } | Outcome::Signaled { held_open: true, .. } = outcome {
                say(
                    "the command has ended, and left a process that has its output; what that one writes is shown to nobody",
                );
            }
            Ok(conclude(&outcome))
        }
        Ended::Left(code) => Ok(code),
    }
}

fn exec(command: ExecOptions, takes_stdin: bool) -> Result<Exec, Failure> {
    let octets = |text: std::ffi::OsString| ByteString(text.into_vec());
    let env = command.env.into_iter().map(|pair| {
        let bytes = pair.as_bytes();
        match bytes.iter().position(|byte| *byte == b'=') {
            Some(at) if at > 0 => Ok((ByteString(bytes[..at].to_vec()), ByteString(bytes[at + 1..].to_vec()))),
            _ => Err(Failure::usage("--env takes NAME=VALUE")),
        }
    });
    let timeout = command.timeout.map(Duration::try_from_secs_f64).transpose();
    let timeout = timeout.map_err(|error| Failure::usage(format!("--timeout: {error}")))?;
    Ok(Exec {
        exec_id: Some(hex(&random::bytes::<16>())),
        argv: Some(command.command.into_iter().map(octets).collect()),
        env: env.collect::<Result<_, _>>()?,
        cwd: command.cwd.map(|cwd| octets(cwd.into())),
        user: command.user,
        pty: command.tty.then(terminal::size),
        timeout_ms: timeout.map(|timeout| (timeout.as_millis() as u64).max(1)),
        stdin: match takes_stdin {
            true => Input::Stream,
            false => Input::None,
        },
        ..Exec::default()
    })
}
