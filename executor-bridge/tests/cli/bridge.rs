//! The life of a bridge: clients find it by its target alone, each target has one, it detaches, stops on request, and survives invalid
//! input.

use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use serde_json::{Value, json};

use crate::harness::{Cli, eventually, frame, next_frame};

fn target() -> Value {
    json!({"pod": "x", "link": "local", "agent_socket": "/no/agent"})
}

fn socket(answer: &Value) -> &Path {
    Path::new(answer["socket"].as_str().unwrap_or_else(|| panic!("{answer}")))
}

/// Reads frames until the result; returns the result.
fn result(stream: &mut UnixStream) -> Value {
    loop {
        let (kind, payload) = next_frame(stream);
        if kind == 0x1f {
            return serde_json::from_slice(&payload).unwrap();
        }
    }
}

fn ask(socket: &Path, request: &Value) -> Value {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(&frame(1, request.to_string().as_bytes())).unwrap();
    result(&mut stream)
}

fn pid(socket: &Path) -> u64 {
    ask(socket, &json!({"v": 1, "op": "status"}))["bridge"]["pid"]
        .as_u64()
        .unwrap()
}

#[test]
fn a_target_has_one_bridge_on_the_documented_socket() {
    let cli = Cli::new();
    // sha256('{"agent_socket":"/no/agent","link":"local","pod":"x"}')[:16]
    let expected = cli.bridges().join("411866dd8213500f.sock");
    let first = cli.bridge(&target());
    assert_eq!(socket(&first), expected);
    let served_by = pid(&expected);
    assert_eq!(cli.bridge(&target()), first);
    assert_eq!(pid(&expected), served_by);
    let cli_options = [
        "--link",
        "local",
        "--agent-socket",
        "/no/agent",
        "status",
        "x",
        "--json",
    ];
    let status: Value = serde_json::from_slice(&cli.run(&cli_options).stdout).unwrap();
    assert_eq!(status[0]["bridge"]["pid"], served_by);
}

#[test]
fn simultaneous_starts_start_one_bridge() {
    let cli = Cli::new();
    let answers: Vec<Value> = std::thread::scope(|scope| {
        let starters: Vec<_> = (0..8).map(|_| scope.spawn(|| cli.bridge(&target()))).collect();
        starters.into_iter().map(|starter| starter.join().unwrap()).collect()
    });
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    let path = socket(&answers[0]).with_extension("log");
    let log = || std::fs::read_to_string(&path).unwrap();
    // A bridge answers before its line is in the log.
    eventually("the bridge has written to its log", || log().contains("bridge begins"));
    assert_eq!(log().matches("bridge begins").count(), 1, "{}", log());
}

#[test]
fn a_bridge_runs_without_a_log_that_can_be_written() {
    let cli = Cli::new();
    // A symbolic link is never opened as a log.
    std::fs::create_dir(cli.bridges()).unwrap();
    std::fs::set_permissions(cli.bridges(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    std::os::unix::fs::symlink("/dev/full", cli.bridges().join("411866dd8213500f.log")).unwrap();
    let answer = cli.bridge(&target());
    pid(socket(&answer));
    assert!(cli.run(&["stop", "--all"]).status.success());
    let path = cli.bridges().join("411866dd8213500f.sock");
    eventually("the first bridge has ended", || !path.exists());

    // A log on a full file system.
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = cli.command(&["bridge", "--foreground"]);
    let piped = std::process::Stdio::piped;
    let mut child = command.stdin(piped()).stdout(piped()).stderr(full).spawn().unwrap();
    let json = target().to_string();
    child.stdin.take().unwrap().write_all(json.as_bytes()).unwrap();
    eventually("it serves", || UnixStream::connect(&path).is_ok());
    assert_eq!(pid(&path), u64::from(child.id()));
    ask(&path, &json!({"v": 1, "op": "stop"}));
    assert!(child.wait().unwrap().success());
}

#[test]
fn a_bridge_keeps_no_descriptor_directory_or_session_of_its_caller() {
    let cli = Cli::new();
    let (mut reader, writer) = std::io::pipe().unwrap();
    // The caller leaves a descriptor open for its children.
    rustix::io::fcntl_setfd(&writer, rustix::io::FdFlags::empty()).unwrap();
    let number = writer.as_raw_fd();
    let answer = cli.bridge(&target());
    drop(writer);
    let pid = pid(socket(&answer));
    // Reads to the end of the pipe, which comes only if the daemon does not hold the other end.
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap();
    assert!(!Path::new(&format!("/proc/{pid}/fd/{number}")).exists() || rest.is_empty());
    assert_eq!(std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), Path::new("/"));
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let session: u64 = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .nth(3)
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(session, pid, "a session of its own");
    let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(
        !String::from_utf8_lossy(&arguments).contains("/no/agent"),
        "the target is not in argv"
    );
}

#[test]
fn a_dead_bridge_is_replaced_and_a_stopped_one_leaves_no_socket() {
    let cli = Cli::new();
    let answer = cli.bridge(&target());
    let socket = socket(&answer);
    // A killed bridge leaves a socket on which no process listens.
    assert_eq!(ask(socket, &json!({"v": 1, "op": "stop"}))["outcome"], "ok");
    eventually("the socket is gone", || !socket.exists());
    drop(UnixListener::bind(socket).unwrap());
    assert!(socket.exists());
    assert_eq!(cli.bridge(&target()), answer);
    pid(socket);
}

#[test]
fn an_unused_bridge_ends() {
    let cli = Cli::new();
    let options = ["--idle", "1", "--link", "local", "--agent-socket", "/no/agent"];
    cli.run(&[&options[..], &["exec", "x", "--", "true"]].concat());
    eventually("the bridge has ended", || {
        let files = std::fs::read_dir(cli.bridges()).unwrap();
        !files
            .flatten()
            .any(|file| file.path().extension().is_some_and(|extension| extension == "sock"))
    });
}

#[test]
fn a_terminated_bridge_leaves_no_socket() {
    let cli = Cli::new();
    let answer = cli.bridge(&target());
    let socket = socket(&answer);
    let pid = rustix::process::Pid::from_raw(pid(socket) as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    eventually("the socket is gone", || !socket.exists());
}

#[test]
fn invalid_input_is_answered_and_the_bridge_survives() {
    let cli = Cli::new();
    let answer = cli.bridge(&target());
    let socket = socket(&answer);
    let served_by = pid(socket);
    let invalid = [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        frame(1, b"[]"),
        frame(1, b"{"),
        frame(2, b"stdin first"),
        frame(0x77, b""),
        vec![0, 0, 0, 0],
        frame(1, br#"{"v":1,"op":"exec"}"#),
    ];
    for bytes in invalid {
        let mut stream = UnixStream::connect(socket).unwrap();
        stream.write_all(&bytes).unwrap();
        let refused = result(&mut stream);
        assert_eq!(
            (&refused["outcome"], &refused["kind"]),
            (&json!("failed"), &json!("bad_request")),
            "{refused}"
        );
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "closed");
    }
    for request in [
        json!({"v": 2, "op": "status"}),
        json!({"v": 1, "op": "warp"}),
        json!({"v": 1, "op": "status", "requires": ["x"]}),
    ] {
        assert_eq!(ask(socket, &request)["kind"], "unsupported");
    }
    assert_eq!(pid(socket), served_by);
}

#[test]
fn bad_targets_are_refused_before_a_bridge_starts() {
    let cli = Cli::new();
    for bad in [
        json!({}),
        json!({"pod": "x", "namespcae": "y"}),
        json!({"pod": "x", "kubeconfig": "relative"}),
        json!({"pod": "x", "extra_args": ["--frobnicate"]}),
        json!([]),
    ] {
        let answer = cli.bridge(&bad);
        assert_eq!(answer["error"]["kind"], "usage", "{answer}");
    }
    assert!(!cli.bridges().exists() || std::fs::read_dir(cli.bridges()).unwrap().next().is_none());
}

#[test]
fn a_request_that_a_dying_bridge_has_not_read_goes_to_the_next_bridge() {
    let cli = Cli::new();
    let answer = cli.bridge(&target());
    let socket = socket(&answer);
    assert_eq!(ask(socket, &json!({"v": 1, "op": "stop"}))["outcome"], "ok");
    eventually("the socket is gone", || !socket.exists());
    // The next bridge never accepts a connection, and dies.
    let dying = UnixListener::bind(socket).unwrap();
    let options = ["--link", "local", "--agent-socket", "/no/agent"];
    let waiting = cli
        .command(&[&options[..], &["exec", "x", "--", "true"]].concat())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut polled = [rustix::event::PollFd::new(&dying, rustix::event::PollFlags::IN)];
    let limit = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
    assert_eq!(
        rustix::event::poll(&mut polled, Some(&limit)).unwrap(),
        1,
        "the client waits for the bridge"
    );
    drop(dying);
    let (code, sentence) = Cli::failed(&waiting.wait_with_output().unwrap());
    assert_eq!(code, 233, "answered by a new bridge: {sentence}");
}
