//! The real `podbridge` on bad input that needs no agent: one sentence, a code of its own, no bridge left behind.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

struct Cli {
    dir: TempDir,
}

impl Cli {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_podbridge"));
        command.args(arguments).stdin(Stdio::null());
        command
            .env_clear()
            .env("PODBRIDGE_DIR", self.dir.path().join("bridges"));
        command.output().unwrap()
    }

    /// Code and message of a failure; stdout stays empty, and stderr is one sentence.
    fn fails(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments);
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(output.stdout.is_empty());
        assert_eq!(message.trim_end().lines().count(), 1, "{message}");
        (output.status.code().unwrap(), message)
    }
}

impl Drop for Cli {
    fn drop(&mut self) {
        for socket in std::fs::read_dir(self.dir.path()).into_iter().flatten().flatten() {
            let local = socket.path();
            self.run(&[
                "stop",
                "--link",
                "local",
                "--agent-socket",
                local.to_str().unwrap(),
                "x",
            ]);
        }
    }
}

#[test]
fn an_agent_that_does_not_answer_is_named() {
    let cli = Cli::new();
    let socket = cli.dir.path().join("agent.sock");
    let socket = socket.to_str().unwrap();
    let (code, message) = cli.fails(&["exec", "--link", "local", "--agent-socket", socket, "x", "--", "true"]);
    assert_eq!(code, 233);
    assert!(
        message.contains(socket) && message.contains("podbridge-agent serve"),
        "{message}"
    );
    let stopped = cli.run(&["stop", "--link", "local", "--agent-socket", socket, "x"]);
    assert!(stopped.status.success());
}

#[test]
fn a_missing_local_file_is_named_before_anything_is_dialled() {
    let cli = Cli::new();
    let (code, message) = cli.fails(&[
        "cp",
        "--link",
        "local",
        "--agent-socket",
        "/no/agent",
        "/no/such",
        "x:/tmp/f",
    ]);
    assert_eq!(code, 222);
    assert!(message.contains("/no/such"), "{message}");
}

#[test]
fn a_directory_that_others_can_enter_is_refused() {
    let cli = Cli::new();
    let bridges = cli.dir.path().join("bridges");
    std::fs::create_dir(&bridges).unwrap();
    std::fs::set_permissions(&bridges, std::fs::Permissions::from_mode(0o755)).unwrap();
    let (code, message) = cli.fails(&[
        "exec",
        "--link",
        "local",
        "--agent-socket",
        "/no/agent",
        "x",
        "--",
        "true",
    ]);
    assert_eq!(code, 235);
    assert!(message.contains("bridges"), "{message}");
}

#[test]
fn wrong_options_are_usage_errors() {
    let cli = Cli::new();
    for arguments in [
        &["exec", "x"][..],
        &["exec", "--link", "warp", "x", "--", "true"],
        &["cp", "/a", "/b"],
        &["frobnicate"],
    ] {
        let output = cli.run(arguments);
        assert_eq!(output.status.code(), Some(221), "{arguments:?}");
        assert!(!output.stderr.is_empty());
    }
}
