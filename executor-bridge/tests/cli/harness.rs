//! A place of its own for each test: no environment, a private directory, and no bridge left behind.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

pub(crate) struct Cli {
    pub(crate) dir: TempDir,
}

impl Cli {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn bridges(&self) -> PathBuf {
        self.dir.path().join("bridges")
    }

    /// A file of this test; its path.
    pub(crate) fn file(&self, name: &str, content: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

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

    /// Code and sentence of a failure; stdout stays empty, and stderr is one sentence.
    pub(crate) fn fails(&self, arguments: &[&str]) -> (i32, String) {
        Self::failed(&self.run(arguments))
    }

    pub(crate) fn failed(output: &Output) -> (i32, String) {
        let text = String::from_utf8(output.stderr.clone()).unwrap();
        assert!(output.stdout.is_empty());
        let sentence = text.strip_prefix("podbridge: ").expect(&text);
        assert_eq!(sentence.trim_end().lines().count(), 1, "{text}");
        (output.status.code().unwrap(), sentence.trim_end().to_owned())
    }

    /// What `podbridge bridge` answers to a target.
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
        // To the end of stdout: a daemon that kept the pipe would hang here.
        let output = child.wait_with_output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// A frame of the client protocol.
pub(crate) fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32 + 1).to_be_bytes();
    [&length[..], &[kind], payload].concat()
}

pub(crate) fn next_frame(stream: &mut UnixStream) -> (u8, Vec<u8>) {
    let mut header = [0; 5];
    stream.read_exact(&mut header).unwrap();
    let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
    let mut payload = vec![0; length as usize - 1];
    stream.read_exact(&mut payload).unwrap();
    (header[4], payload)
}

impl Drop for Cli {
    fn drop(&mut self) {
        self.run(&["stop", "--all"]);
    }
}
