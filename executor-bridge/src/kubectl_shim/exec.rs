//! `kubectl exec` through the bridge of the pod's slot: the same streams, exit codes and messages as kubectl's. Starts no bridge. Runs
//! the next kubectl only if nothing has run, so that no command runs twice.

use std::os::unix::ffi::OsStringExt as _;

use crate::client::{self, AttachedEnd, BridgeAddress, Streams};
use crate::error::{Failure, Kind};
use crate::exit::{self, KUBECTL_FAILED};
use crate::kubectl_shim::arguments;
use crate::protocol::byte_string::ByteString;
use crate::protocol::request::{Exec, Input};
use crate::protocol::result::Outcome;
use crate::report::{print, say};
use crate::sockets::{self, ZuulSlot};
use crate::terminal;

/// Runs the command; returns the exit code. `None` if nothing ran and the next kubectl must serve the pod.
pub(super) fn run(slot: ZuulSlot, arguments: arguments::ExecArguments) -> Result<Option<u8>, Failure> {
    let arguments::ExecArguments {
        container,
        stdin,
        tty,
        quiet,
        command,
    } = arguments;
    // As in kubectl: -t without -i is ignored, without a message.
    let tty = tty && stdin;
    let terminal = tty && terminal::stdin_is_terminal();
    if tty && !terminal && !quiet {
        print(terminal::UNUSABLE);
    }
    let exec = Exec {
        argv: Some(command.into_iter().map(|word| ByteString(word.into_vec())).collect()),
        pty: terminal.then(terminal::size),
        stdin: if stdin { Input::Stream } else { Input::None },
        ..Exec::new()
    };
    let address = BridgeAddress::Slot {
        socket: slot.socket.clone(),
        otherwise: None,
    };
    let end = match client::run_attached(address, container, exec, Streams::standard()) {
        // The build is over, as its kubeconfig was kept: what has not run, kubectl runs.
        Err(failure) if failure == sockets::abandoned(&slot.socket) => return Ok(None),
        end => end?,
    };
    Ok(match end {
        // Standard input is unread: it is read only after a command has started.
        AttachedEnd::Outcome(Outcome::Unreachable(failure)) if failure.kind == Kind::Windows => None,
        AttachedEnd::Outcome(outcome) => Some(conclude(&outcome)),
        AttachedEnd::Detached(code) => Some(code),
    })
}

/// Prints what kubectl prints for this outcome; returns kubectl's exit code.
fn conclude(outcome: &Outcome) -> u8 {
    let sentence = match outcome {
        Outcome::Exited { .. } | Outcome::Signaled { .. } => {
            let code = exit::code(outcome);
            // Also with --quiet, as in kubectl 1.34.
            if code != 0 {
                print(&format!("command terminated with exit code {code}"));
            }
            return code;
        }
        // The command itself failed: keep its exit code.
        Outcome::OomKilled { message, .. } | Outcome::StartFailed { message, .. } => {
            say(message);
            return exit::code(outcome);
        }
        Outcome::TimedOut(ended) | Outcome::Cancelled(ended) => &ended.message,
        Outcome::Failed { message, .. } => message,
        Outcome::Unreachable(failure) | Outcome::Lost(failure) => &failure.message,
        Outcome::Ok(_) => {
            "the bridge sent the result of another operation; this is a bug in podbridge, please report it"
        }
    };
    say(sentence);
    KUBECTL_FAILED
}
