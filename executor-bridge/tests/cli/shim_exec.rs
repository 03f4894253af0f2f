//! `kubectl exec` through the bridge of a slot, which the test plays: its requests, its output, and the death of the bridge.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{frame, next_frame};

const KUBECONFIG: &str = r#"{"clusters": [{"name": "c", "cluster": {"server": "https://one:1/"}}],
    "contexts": [{"name": "x", "context": {"cluster": "c", "namespace": "ci"}}], "current-context": "x"}"#;

const STDIN: u8 = 0x02;
const STDIN_EOF: u8 = 0x03;

/// The directory of a build's kubeconfig, in which the bridge's socket is.
struct ZuulSlot {
    directory: TempDir,
    /// Named sha256('{"namespace":"ci","pod":"web","server":"https://one:1"}')[:16]
    socket: PathBuf,
}

impl ZuulSlot {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("config"), KUBECONFIG).unwrap();
        Self {
            socket: directory.path().join("0199756f54f43fe8"),
            directory,
        }
    }

    fn listen(&self) -> UnixListener {
        let _ = std::fs::remove_file(&self.socket);
        UnixListener::bind(&self.socket).unwrap()
    }

    fn kubectl(&self, arguments: &[&str]) -> Child {
        Command::new(env!("CARGO_BIN_EXE_podbridge"))
            .arg("kubectl")
            .args(arguments)
            .env_clear()
            .env("KUBECONFIG", self.directory.path().join("config"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }
}

fn request(stream: &mut UnixStream) -> Value {
    let (kind, payload) = next_frame(stream);
    assert_eq!(kind, 0x01);
    serde_json::from_slice(&payload).unwrap()
}

fn accept(listener: &UnixListener) -> (UnixStream, Value) {
    let (mut stream, _) = listener.accept().unwrap();
    let request = request(&mut stream);
    (stream, request)
}

fn send(stream: &mut UnixStream, kind: u8, payload: &[u8]) {
    stream.write_all(&frame(kind, payload)).unwrap();
}

fn begin(stream: &mut UnixStream) {
    send(stream, 0x14, br#"{"instance": "i1"}"#);
    send(stream, 0x10, br#"{"exec_id": "", "pid": 1}"#);
}

fn end(stream: &mut UnixStream, outcome: Value) {
    send(stream, 0x1f, outcome.to_string().as_bytes());
}

/// Returns exit code, standard output and standard error.
fn code_and_streams(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code().unwrap(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[test]
fn streams_and_exit_code_are_those_of_the_command() {
    let slot = ZuulSlot::new();
    let listener = slot.listen();
    let sentence = "command terminated with exit code 3\n";
    for flag in ["-i", "-iq"] {
        let mut child = slot.kubectl(&["exec", flag, "-c", "main", "web", "--", "cat", "-n", ""]);
        let (mut stream, request) = accept(&listener);
        assert_eq!(request["argv"], json!(["cat", "-n", ""]));
        let asked = ["op", "stdin", "container", "pty"].map(|key| request[key].clone());
        assert_eq!(asked, [json!("exec"), json!("stream"), json!("main"), json!(null)]);
        begin(&mut stream);
        child.stdin.take().unwrap().write_all(b"in\0\xff").unwrap();
        let mut input = Vec::new();
        while let (STDIN, data) = next_frame(&mut stream) {
            input.extend(data);
        }
        assert_eq!(input, b"in\0\xff");
        // The input of the command has ended, its output has not.
        send(&mut stream, 0x11, b"out\n");
        send(&mut stream, 0x12, b"err\n");
        end(&mut stream, json!({"outcome": "exited", "code": 3}));
        let output = child.wait_with_output().unwrap();
        assert_eq!(
            code_and_streams(&output),
            (3, "out\n".into(), format!("err\n{sentence}"))
        );
    }
}

#[test]
fn without_i_standard_input_is_not_read() {
    let slot = ZuulSlot::new();
    let listener = slot.listen();
    let child = slot.kubectl(&["exec", "-t", "web", "id"]);
    let (mut stream, request) = accept(&listener);
    assert_eq!((&request["stdin"], &request["pty"]), (&json!("none"), &json!(null)));
    begin(&mut stream);
    end(&mut stream, json!({"outcome": "exited", "code": 0}));
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "nothing more was sent");
    assert_eq!(
        code_and_streams(&child.wait_with_output().unwrap()),
        (0, String::new(), String::new())
    );
}

#[test]
fn without_a_terminal_t_prints_kubectls_warning() {
    let slot = ZuulSlot::new();
    let listener = slot.listen();
    let child = slot.kubectl(&["exec", "-it", "web", "--", "sh"]);
    let (mut stream, request) = accept(&listener);
    assert_eq!((&request["stdin"], &request["pty"]), (&json!("stream"), &json!(null)));
    begin(&mut stream);
    end(&mut stream, json!({"outcome": "signaled", "signal": 9}));
    let (code, _, stderr) = code_and_streams(&child.wait_with_output().unwrap());
    let expected = "Unable to use a TTY - input is not a terminal or the right kind of file\n\
                    command terminated with exit code 137\n";
    assert_eq!((code, stderr.as_str()), (137, expected));
}

#[test]
fn failures_of_podbridge_are_one_sentence_and_kubectls_exit_code() {
    let slot = ZuulSlot::new();
    let listener = slot.listen();
    for (outcome, code) in [
        (
            json!({"outcome": "unreachable", "kind": "pod_not_found", "message": "no pod web"}),
            1,
        ),
        (
            json!({"outcome": "lost", "kind": "agent_lost", "message": "no pod web"}),
            1,
        ),
        (json!({"outcome": "failed", "kind": "io", "message": "no pod web"}), 1),
        (
            json!({"outcome": "start_failed", "code": 127, "step": "exec", "errno": 2, "message": "no pod web"}),
            127,
        ),
        (json!({"outcome": "oom_killed", "message": "no pod web"}), 137),
    ] {
        let child = slot.kubectl(&["exec", "web", "--", "id"]);
        let (mut stream, _) = accept(&listener);
        end(&mut stream, outcome);
        let result = code_and_streams(&child.wait_with_output().unwrap());
        assert_eq!(result, (code, String::new(), "podbridge: no pod web\n".into()));
    }
}

#[test]
fn a_pod_without_a_bridge_is_passed_on() {
    let slot = ZuulSlot::new();
    let _listener = slot.listen();
    for arguments in [
        &["exec", "other", "--", "id"][..],
        &["exec", "-n", "other", "web", "--", "id"],
        &["exec", "--context=other", "web", "--", "id"],
    ] {
        let (code, _, stderr) = code_and_streams(&slot.kubectl(arguments).wait_with_output().unwrap());
        assert_eq!(code, 127, "passed on, and there is no next kubectl: {stderr}");
    }
}

#[test]
fn the_client_waits_for_the_next_bridge_and_the_command_continues() {
    let slot = ZuulSlot::new();
    // A killed bridge leaves its socket.
    drop(slot.listen());
    let mut child = slot.kubectl(&["exec", "-i", "web", "--", "cat"]);
    // The client must still wait after a few tries to connect.
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none(), "it waits");
    let listener = slot.listen();
    let (mut stream, first) = accept(&listener);
    begin(&mut stream);
    send(&mut stream, 0x11, b"one ");
    child.stdin.take().unwrap().write_all(b"input").unwrap();
    assert_eq!(next_frame(&mut stream), (STDIN, b"input".to_vec()));
    assert_eq!(next_frame(&mut stream).0, STDIN_EOF);
    drop(listener);
    drop(stream);
    // The client has to see that there is no bridge before the next one listens.
    std::thread::sleep(std::time::Duration::from_millis(100));
    let listener = slot.listen();
    let (mut stream, next) = accept(&listener);
    assert_eq!(next["exec_id"], first["exec_id"]);
    let resume = json!({"instance": "i1", "started": true, "stdout": 4, "stderr": 0, "stdin": 0});
    assert_eq!((&next["resume"], &next["requires"]), (&resume, &json!(["resume"])));
    assert_eq!(next_frame(&mut stream), (STDIN, b"input".to_vec()));
    assert_eq!(next_frame(&mut stream).0, STDIN_EOF);
    send(&mut stream, 0x11, b"two");
    end(&mut stream, json!({"outcome": "exited", "code": 0}));
    let output = child.wait_with_output().unwrap();
    assert_eq!(code_and_streams(&output), (0, "one two".into(), String::new()));
}

#[test]
fn a_signal_between_two_bridges_reaches_the_command() {
    let slot = ZuulSlot::new();
    let listener = slot.listen();
    let child = slot.kubectl(&["exec", "web", "--", "sleep", "9"]);
    let (mut stream, _) = accept(&listener);
    begin(&mut stream);
    send(&mut stream, 0x11, b"x");
    drop(listener);
    drop(stream);
    // The client has to see that the bridge is gone before it gets the signal.
    std::thread::sleep(std::time::Duration::from_millis(200));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    // The client has to handle the signal before the next bridge listens.
    std::thread::sleep(std::time::Duration::from_millis(100));
    let (mut stream, _) = accept(&slot.listen());
    assert_eq!(next_frame(&mut stream), (0x04, vec![15]));
    end(&mut stream, json!({"outcome": "signaled", "signal": 15}));
    let (code, stdout, _) = code_and_streams(&child.wait_with_output().unwrap());
    assert_eq!((code, stdout.as_str()), (143, "x"));
}

#[test]
fn a_windows_pod_is_left_to_the_next_kubectl() {
    let slot = ZuulSlot::new();
    let listener = slot.listen();
    let mut child = slot.kubectl(&["exec", "web", "--", "cmd"]);
    let (mut stream, _) = accept(&listener);
    end(
        &mut stream,
        json!({"outcome": "unreachable", "kind": "windows", "message": "no"}),
    );
    drop(child.stdin.take());
    let (code, out, err) = code_and_streams(&child.wait_with_output().unwrap());
    // There is no next kubectl, because PATH is empty.
    assert_eq!((code, out.as_str()), (127, ""));
    assert!(err.contains("kubectl"), "{err}");
}
