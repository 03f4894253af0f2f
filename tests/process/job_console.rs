//! The live log of a pod that a job made: the bridge that the Ansible plugin starts serves Zuul's console stream at a loopback address of the
//! pod's own. The pod's agent runs on this host, so that its console logs are in /tmp here.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Stdio;

use podbridge_tests::build::{Console, LogFile};
use podbridge_tests::client_protocol::exec_with_payload;
use podbridge_tests::pair::{Pair, eventually};
use serde_json::{Value, json};

const NOT_FOUND: &str = "[Zuul] Log not found\n";

/// Returns an address that belongs to one test, and a listener that has it.
fn address() -> (SocketAddrV4, TcpListener) {
    let [a, b, c] = [(); 3].map(|()| fastrand::u8(2..254));
    let listener = TcpListener::bind((Ipv4Addr::new(127, a, b, c), 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (SocketAddrV4::new(Ipv4Addr::new(127, a, b, c), port), listener)
}

/// Runs `podbridge bridge` as the plugin does, and returns its answer.
fn bridge(pair: &Pair, console: &str, options: &[&str]) -> Value {
    let target = json!({"pod": "web", "link": "local", "agent_socket": pair.agent_socket(), "console": console});
    let mut command = pair.podbridge(&[&["bridge"], options].concat());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(target.to_string().as_bytes()).unwrap();
    drop(stdin);
    serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap()
}

/// Starts a bridge that serves the live log, and returns its socket and the address.
fn start(pair: &Pair, options: &[&str]) -> (PathBuf, SocketAddrV4) {
    let (address, listener) = address();
    drop(listener);
    let socket = bridge(pair, &address.to_string(), options)["socket"]
        .as_str()
        .unwrap()
        .into();
    eventually("the live log is served", || TcpStream::connect(address).is_ok());
    (socket, address)
}

fn open_log(address: SocketAddrV4, id: &str) -> Console {
    let mut console = Console::connect_to(address);
    console.send("v:0\n");
    assert_eq!(console.read_line(), "1\n");
    console.send(&format!("s:{id}\n"));
    console
}

fn run_module(socket: &std::path::Path, log: &LogFile) {
    let arguments = json!({"ANSIBLE_MODULE_ARGS": {"zuul_log_id": log.id}});
    let payload = format!(": '{arguments}'\n");
    let result = exec_with_payload(socket, &["/bin/sh"], payload.as_bytes()).unwrap();
    assert_eq!(result["outcome"], "exited", "{result}");
}

#[test]
fn the_live_log_of_a_pod_that_a_job_made() {
    let (pair, log) = (Pair::start(), LogFile::default());
    let (_socket, address) = start(&pair, &[]);
    let mut console = open_log(address, &log.id);
    assert_eq!(console.read_line(), NOT_FOUND);
    log.append(b"2026-11-26 10:20:29.000001 | one\n");
    assert_eq!(console.read_log_line(), "2026-11-26 10:20:29.000001 | one\n");
    log.append(b"two\n");
    assert_eq!(console.read_line(), "two\n");
    Console::connect_to(address).send(&format!("f:{}\n", log.id));
    eventually("the log is deleted", || !log.path.exists());
    // Zuul's own address stays free for the bridges that Zuul starts.
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, address.port())).is_err());
}

#[test]
fn zuul_does_not_wait_for_the_log_of_a_task_that_wrote_none() {
    let (pair, log) = (Pair::start(), LogFile::default());
    let (socket, address) = start(&pair, &[]);
    let mut console = open_log(address, &log.id);
    assert_eq!(console.read_line(), NOT_FOUND);
    run_module(&socket, &log);
    assert_eq!(console.read_log_line(), "", "the connection is closed");
}

#[test]
fn a_pod_that_is_lost_is_named_and_may_be_made_again() {
    let (mut pair, log) = (Pair::start(), LogFile::default());
    let (socket, address) = start(&pair, &[]);
    log.append(b"one\n");
    let mut console = open_log(address, &log.id);
    assert_eq!(console.read_log_line(), "one\n");
    pair.kill_agent();
    let line = console.read_log_line();
    assert!(line.contains(" | [Zuul] pod web lost: "), "{line}");
    pair.start_agent_again();
    run_module(&socket, &log);
    assert_eq!(open_log(address, &log.id).read_log_line(), "one\n");
}

#[test]
fn a_job_goes_on_without_a_live_log_while_a_neighbour_has_the_address() {
    let (pair, log) = (Pair::start(), LogFile::default());
    let (address, neighbour) = address();
    let answer = bridge(&pair, &address.to_string(), &[]);
    let socket = PathBuf::from(answer["socket"].as_str().unwrap());
    run_module(&socket, &log);
    drop(neighbour);
    log.append(b"one\n");
    eventually("the live log is served", || TcpStream::connect(address).is_ok());
    assert_eq!(open_log(address, &log.id).read_log_line(), "one\n");
}

#[test]
fn readers_of_the_live_log_do_not_keep_the_bridge() {
    let pair = Pair::start();
    let (_socket, address) = start(&pair, &["--idle", "1"]);
    let mut console = open_log(address, "podbridge-nowhere");
    eventually("the bridge has ended", || pair.bridges().is_empty());
    assert_eq!(console.read_log_line(), "");
}

#[test]
fn an_address_that_others_reach_is_refused() {
    let pair = Pair::start();
    for console in ["0.0.0.0:19885", "10.0.0.1:19885", "127.0.0.1:19885", "127.0.0.2:0", "x"] {
        let answer = bridge(&pair, console, &[]);
        assert_eq!(answer["error"]["kind"], "usage", "{console}: {answer}");
    }
    assert!(pair.bridges().is_empty());
    let two = [(); 2].map(|()| start(&pair, &[]).0);
    assert_ne!(two[0], two[1], "two addresses have two bridges");
}
