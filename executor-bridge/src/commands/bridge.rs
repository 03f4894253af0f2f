//! `podbridge bridge`: reads a target as JSON from standard input, finds or starts its bridge, and prints the socket as JSON
//! (docs/client-protocol.md). The Ansible plugin calls it; with `--detached` it is the daemon itself.

use std::io::{Read as _, Write as _};
use std::path::Path;

use crate::cli::DaemonOptions;
use crate::config::BridgeSettings;
use crate::error::Failure;
use crate::protocol::target::KeyedTarget;
use crate::{client, daemon};

pub(super) fn run(command: &DaemonOptions, options: BridgeSettings) -> Result<u8, Failure> {
    if command.detached {
        return daemon::run_detached(options).map(|()| 0);
    }
    let socket = read_target().and_then(|(target, json)| {
        if command.foreground {
            daemon::run_foreground(target, options, |socket| print(&answer(socket))).map(|()| None)
        } else {
            client::runtime()?
                .block_on(client::find_or_start(&target, &json, options))
                .map(Some)
        }
    });
    match socket {
        Ok(Some(socket)) => {
            print(&answer(&socket));
            Ok(0)
        }
        Ok(None) => Ok(0),
        Err(failure) => {
            print(&serde_json::json!({ "error": failure }));
            Ok(failure.kind.code())
        }
    }
}

/// Returns the answer of a successful call.
fn answer(socket: &Path) -> serde_json::Value {
    // The path comes from the environment. If it is not UTF-8, JSON cannot hold it, and no client could have found the socket.
    serde_json::json!({ "socket": socket.to_string_lossy() })
}

fn print(answer: &serde_json::Value) {
    let mut stdout = std::io::stdout();
    // A failure is ignored: the caller has closed the pipe.
    let _ = writeln!(stdout, "{answer}").and_then(|()| stdout.flush());
}

/// Reads the target from standard input; returns it and its JSON text.
fn read_target() -> Result<(KeyedTarget, Vec<u8>), Failure> {
    let mut json = Vec::new();
    std::io::stdin()
        .lock()
        .read_to_end(&mut json)
        .map_err(|error| Failure::usage(format!("the target on standard input cannot be read: {error}")))?;
    Ok((KeyedTarget::parse(&json)?, json))
}
