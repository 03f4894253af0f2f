//! An isolated `podbridge` for each test: an empty environment, a private directory, and no bridge left at the end.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Runs `podbridge` in a private directory; dropping it stops all bridges there.
pub(crate) struct Cli {
    pub(crate) dir: TempDir,
}

impl Cli {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// Returns the directory of the bridges' sockets.
    pub(crate) fn bridges(&self) -> PathBuf {
        self.dir.path().join("bridges")
    }

    /// Writes a file of this test; returns its path.
    pub(crate) fn file(&self, name: &str, content: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Returns a command that runs podbridge with these arguments.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_podbridge"));
        command
            .args(arguments)
            .stdin(Stdio::null())
            .env_clear()
            .env("HOME", self.dir.path())
            .env("PODBRIDGE_DIR", self.bridges());
        command
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs podbridge; returns exit code and sentence of its failure.
    pub(crate) fn fails(&self, arguments: &[&str]) -> (i32, String) {
        Self::failed(&self.run(arguments))
    }

    /// Returns exit code and sentence of a failure. Checks that stdout is empty and that stderr is one sentence.
    pub(crate) fn failed(output: &Output) -> (i32, String) {
        let text = String::from_utf8(output.stderr.clone()).unwrap();
        assert!(output.stdout.is_empty());
        let sentence = text.strip_prefix("podbridge: ").expect(&text);
        assert_eq!(sentence.trim_end().lines().count(), 1, "{text}");
        (output.status.code().unwrap(), sentence.trim_end().to_owned())
    }

    /// Returns the answer of `podbridge bridge` to a target.
    pub(crate) fn bridge(&self, target: &serde_json::Value) -> serde_json::Value {
        let mut child = self
            .command(&["bridge"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(target.to_string().as_bytes()).unwrap();
        drop(stdin);
        // Reads stdout to its end: this would hang if the daemon kept the pipe open.
        let output = child.wait_with_output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// Returns a frame of the client protocol.
pub(crate) fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32 + 1).to_be_bytes();
    [&length[..], &[kind], payload].concat()
}

/// Reads the next frame; returns its kind and payload.
pub(crate) fn next_frame(stream: &mut UnixStream) -> (u8, Vec<u8>) {
    let mut header = [0; 5];
    stream.read_exact(&mut header).unwrap();
    let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
    let mut payload = vec![0; length as usize - 1];
    stream.read_exact(&mut payload).unwrap();
    (header[4], payload)
}

/// Waits until a condition holds.
pub(crate) fn eventually(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(10), "never: {what}");
        // Nothing tells of the change, so this asks again and again.
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Drop for Cli {
    fn drop(&mut self) {
        self.run(&["stop", "--all"]);
    }
}
