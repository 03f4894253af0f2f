//! Operations that have to be quick while others are attacked. Each is one request on the bridge's socket, so that the time of a client
//! process does not count. `scene` calls it during an attack.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use podbridge_tests::client_protocol::{ask, exec_with_payload};
use serde_json::{Value, json};

/// What is asked of a bridge during an attack.
#[derive(Debug, Clone)]
pub(crate) enum Control {
    /// `true`, once with and once without a descriptor for its stdin.
    Exec(PathBuf),
    /// The bridge's own status, where no agent can answer.
    Status(PathBuf),
    /// Nothing: the case has no bridge.
    Nothing,
}

impl Control {
    /// Runs each operation once; returns how long each took, or why it failed.
    pub(crate) fn run(&self) -> Result<Vec<Duration>, String> {
        match self {
            Control::Exec(socket) => {
                let plain = timed(|| run_true(socket))?;
                let payload = timed(|| run_true_with_descriptor(socket))?;
                Ok(vec![plain, payload])
            }
            Control::Status(socket) => Ok(vec![timed(|| {
                let answer = ask(socket, &json!({"v": 1, "op": "status"}));
                check(answer, "ok")
            })?]),
            Control::Nothing => Ok(Vec::new()),
        }
    }
}

fn timed(run: impl FnOnce() -> Result<(), String>) -> Result<Duration, String> {
    let start = Instant::now();
    run()?;
    Ok(start.elapsed())
}

/// Runs `true` through the bridge.
pub(crate) fn run_true(socket: &Path) -> Result<(), String> {
    check(ask(socket, &json!({"v": 1, "op": "exec", "argv": ["true"]})), "exited")
}

fn run_true_with_descriptor(socket: &Path) -> Result<(), String> {
    check(exec_with_payload(socket, &["true"], b"payload"), "exited")
}

/// Returns an error unless the result has this outcome and no code but 0.
fn check(answer: std::io::Result<Value>, outcome: &str) -> Result<(), String> {
    let answer = answer.map_err(|error| format!("no answer: {error}"))?;
    if answer["outcome"] == outcome && answer["code"].as_i64().unwrap_or(0) == 0 {
        Ok(())
    } else {
        Err(answer.to_string())
    }
}
