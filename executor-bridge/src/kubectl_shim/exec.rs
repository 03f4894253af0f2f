//! kubectl's `exec`, through the bridge of the pod's slot: its streams to the byte, its exit code, its sentences and no others.
//! Never starts a bridge, and never asks the next kubectl when something may have run: nothing may run twice.

use std::io::Write as _;
use std::os::unix::ffi::OsStringExt as _;

use crate::client::{self, BridgeAddress, Ended, Streams};
use crate::error::{Failure, Kind};
use crate::exit::{self, KUBECTL_FAILED};
use crate::kubectl_shim::arguments;
use crate::protocol::byte_string::ByteString;
use crate::protocol::request::{Exec, Input};
use crate::protocol::result::Outcome;
use crate::protocol::target::hex;
use crate::report::say;
use crate::sockets::ZuulSlot;
use crate::{random, terminal};

/// `None`: nothing ran, and the pod is the next kubectl's.
pub(super) fn run(slot: ZuulSlot, wanted: arguments::Exec) -> Result<Option<u8>, Failure> {
    let arguments::Exec {
        container,
        stdin,
        tty,
        quiet,
        command,
    } = wanted;
    // As kubectl: without standard input there is no terminal, and nobody is told.
    let tty = tty && stdin;
    let terminal = tty && terminal::stdin_is_terminal();
    if tty && !terminal && !quiet {
        print("Unable to use a TTY - input is not a terminal or the right kind of file");
    }
    let exec = Exec {
        exec_id: Some(hex(&random::bytes::<16>())),
        argv: Some(command.into_iter().map(|word| ByteString(word.into_vec())).collect()),
        pty: terminal.then(terminal::size),
        stdin: match stdin {
            true => Input::Stream,
            false => Input::None,
        },
        ..Exec::default()
    };
    let ended = client::attend(BridgeAddress::Slot(slot.socket), container, exec, Streams::standard())?;
    Ok(match ended {
        // Standard input was not touched: it is read only when a command has started.
        Ended::Outcome(Outcome::Unreachable(failure)) if failure.kind == Kind::Windows => None,
        Ended::Outcome(outcome) => Some(conclude(&outcome)),
        Ended::Left(code) => Some(code),
    })
}

/// Says what kubectl would say of such an end; its exit code.
fn conclude(outcome: &Outcome) -> u8 {
    let sentence = match outcome {
        Outcome::Exited { .. } | Outcome::Signaled { .. } => {
            let code = exit::code(outcome);
            // Also with --quiet, as kubectl 1.34 does it.
            if code != 0 {
                print(&format!("command terminated with exit code {code}"));
            }
            return code;
        }
        // The command's own ends.
        Outcome::OomKilled { message, .. } | Outcome::StartFailed { message, .. } => {
            say(message);
            return exit::code(outcome);
        }
        Outcome::TimedOut(ended) | Outcome::Cancelled(ended) => &ended.message,
        Outcome::Failed { message, .. } => message,
        Outcome::Unreachable(failure) | Outcome::Lost(failure) => &failure.message,
        Outcome::Ok(_) => "the bridge answered another question than it was asked",
    };
    say(sentence);
    KUBECTL_FAILED
}

/// kubectl's own words.
fn print(sentence: &str) {
    // Whoever closed our stderr does without.
    let _ = writeln!(std::io::stderr(), "{sentence}");
}
