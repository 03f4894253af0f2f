//! `podbridge bridge`: the target on standard input, the socket on standard output (docs/client-protocol.md).

use std::io::{Read as _, Write as _};
use std::path::Path;

use crate::cli::DaemonOptions;
use crate::config::BridgeSettings;
use crate::error::Failure;
use crate::protocol::target::KeyedTarget;
use crate::{daemon, launch};

pub(super) fn run(command: &DaemonOptions, options: BridgeSettings) -> Result<u8, Failure> {
    if command.detached {
        return daemon::run_detached(options).map(|()| 0);
    }
    let found = read().and_then(|(target, json)| match command.foreground {
        true => daemon::run_foreground(target, options, |socket| print(&answer(socket))).map(|()| None),
        false => launch::launch(&target, &json, options).map(Some),
    });
    match found {
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

fn answer(socket: &Path) -> serde_json::Value {
    // Made from the environment: lossy only where no client could have found it.
    serde_json::json!({ "socket": socket.to_string_lossy() })
}

fn print(answer: &serde_json::Value) {
    let mut stdout = std::io::stdout();
    // A caller that has gone needs no answer.
    let _ = writeln!(stdout, "{answer}").and_then(|()| stdout.flush());
}

fn read() -> Result<(KeyedTarget, Vec<u8>), Failure> {
    let mut json = Vec::new();
    std::io::stdin()
        .lock()
        .read_to_end(&mut json)
        .map_err(|error| Failure::usage(format!("the target on standard input cannot be read: {error}")))?;
    Ok((KeyedTarget::parse(&json)?, json))
}
