//! Tests of the life of an agent: Hello, health, the proxy, detaching, the end when idle, signals, PID 1.

use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use podbridge_proto::limits::{PROTOCOL_MAJOR, PROXY_MAGIC};
use podbridge_proto::v1::HelloRequest;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::{AGENT, Agent, alive, connect, eventually, run, shell, soon, until_an_idle_agent_has_ended};

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn hello_identifies_the_agent_and_refuses_other_versions() {
    let agent = Agent::start();
    let hello = |protocol_major, requires: &[&str]| HelloRequest {
        protocol_major,
        version: "9.9.9".into(),
        requires: requires.iter().map(|name| name.to_string()).collect(),
    };
    let mut client = agent.hello().await;
    let answer = client
        .hello(hello(PROTOCOL_MAJOR, &["exec.v1", "files.v1", "logs.v1"]))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (answer.pid, answer.version.as_str()),
        (agent.pid(), env!("CARGO_PKG_VERSION"))
    );
    let again = client.hello(hello(PROTOCOL_MAJOR, &[])).await.unwrap().into_inner();
    assert_eq!(again.instance, answer.instance);
    let other = Agent::start()
        .hello()
        .await
        .hello(hello(PROTOCOL_MAJOR, &[]))
        .await
        .map(|a| a.into_inner().instance);
    assert!(other.is_err() || other.unwrap() != answer.instance);
    for refused in [hello(PROTOCOL_MAJOR + 1, &[]), hello(PROTOCOL_MAJOR, &["warp.v1"])] {
        assert_eq!(
            client.hello(refused).await.unwrap_err().code(),
            Code::FailedPrecondition
        );
    }
    let mut health = HealthClient::new(agent.channel().await);
    let status = health
        .check(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner()
        .status;
    assert_eq!(status, 1);
    assert_eq!(
        std::fs::metadata(agent.socket()).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

/// Starts a proxy, and begins HTTP/2 through its pipes.
fn start_proxy(socket: &Path) -> (Child, ChildStdout) {
    let mut proxy = Command::new(AGENT)
        .args(["proxy", "--socket"])
        .arg(socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = proxy.stdout.take().unwrap();
    let mut answer = vec![0; PROXY_MAGIC.len()];
    stdout.read_exact(&mut answer).unwrap();
    proxy
        .stdin
        .as_mut()
        .unwrap()
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .unwrap();
    let mut settings = [0; 9];
    stdout.read_exact(&mut settings).unwrap();
    assert_eq!(settings[3], 4, "a SETTINGS frame");
    (proxy, stdout)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_proxy_carries_the_connection() {
    let agent = Agent::start();
    let (mut proxy, stdout) = start_proxy(&agent.socket());
    // The end of stdin ends the connection and the proxy.
    drop(proxy.stdin.take());
    read_to_end_of(stdout).await;
    assert!(proxy.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_agent_closes_the_streams_of_a_proxy_that_is_killed() {
    let agent = Agent::start();
    let (mut proxy, stdout) = start_proxy(&agent.socket());
    // Keep stdin open: its end would make the agent close the streams as well.
    let _stdin = proxy.stdin.take();
    proxy.kill().unwrap();
    proxy.wait().unwrap();
    // The container runtime waits for this end before it reports the end of the exec.
    read_to_end_of(stdout).await;
}

async fn read_to_end_of(mut stdout: ChildStdout) {
    let reading = tokio::task::spawn_blocking(move || stdout.read_to_end(&mut Vec::new()));
    soon(reading).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_proxy_ends_with_the_agent() {
    let agent = Agent::start();
    let (mut proxy, _stdout) = start_proxy(&agent.socket());
    let pid = rustix::process::Pid::from_raw(agent.pid() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    eventually("the proxy ends", || proxy.try_wait().unwrap().is_some());
}

#[test]
fn the_proxy_copies_to_the_socket_of_an_agent_that_takes_no_descriptors() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let older = std::thread::spawn(move || {
        // An older agent takes the offer for HTTP/2, answers, and closes the connection.
        let (mut first, _) = listener.accept().unwrap();
        first.write_all(b"\0\0\0\x04\0\0\0\0\0").unwrap();
        drop(first);
        let (mut second, _) = listener.accept().unwrap();
        let mut received = Vec::new();
        second.read_to_end(&mut received).unwrap();
        second.write_all(b"heard ").unwrap();
        second.write_all(&received).unwrap();
    });
    let mut proxy = Command::new(AGENT)
        .args(["proxy", "--socket"])
        .arg(&socket)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    proxy.stdin.take().unwrap().write_all(b"hello").unwrap();
    let mut answer = String::new();
    proxy.stdout.take().unwrap().read_to_string(&mut answer).unwrap();
    assert_eq!(answer, format!("{PROXY_MAGIC}heard hello"));
    assert!(proxy.wait().unwrap().success());
    older.join().unwrap();
}

#[test]
fn without_an_agent_the_proxy_reports_an_error() {
    let out = Command::new(AGENT)
        .args(["proxy", "--socket", "/no/such/agent.sock"])
        .output()
        .unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(out.stdout.is_empty());
    assert!(
        String::from_utf8(out.stderr)
            .unwrap()
            .starts_with("podbridge-agent: no agent answers on /no/such/")
    );
}

/// A process that is killed at the end of the test, and its PID namespace with it.
struct KillOnDrop(std::process::Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Idle time of the detached agents of these tests, in seconds.
const IDLE: &str = "1";

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_detached_agent_starts_once_and_ends_when_idle() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("deep/agent.sock");
    let serve = || {
        let mut command = Command::new(AGENT);
        command
            .args(["serve", "--daemon", "--idle", IDLE, "--socket"])
            .arg(&socket);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let starting: Vec<_> = (0..4).map(|_| serve()).collect();
    for child in starting {
        // Its output ends with it: the detached agent holds none of its descriptors.
        let out = child.wait_with_output().unwrap();
        assert!(out.status.success() && out.stderr.is_empty(), "{out:?}");
    }
    let mut exec = podbridge_proto::v1::exec_client::ExecClient::new(connect(socket.clone()).await);
    let hello = HelloRequest {
        protocol_major: PROTOCOL_MAJOR,
        ..Default::default()
    };
    let pid = {
        let mut agent = podbridge_proto::v1::agent_client::AgentClient::new(connect(socket.clone()).await);
        agent.hello(hello).await.unwrap().into_inner().pid
    };
    let end = dir.path().join("end");
    let command = format!("mkfifo {0} && cat {0}", end.display());
    exec.start(shell(&command)).await.unwrap();
    drop(exec);
    until_an_idle_agent_has_ended().await;
    assert!(alive(pid), "a running command keeps the agent alive");
    eventually("the command waits for its end", || end.exists());
    std::fs::write(end, "").unwrap();
    eventually("the agent ends when idle", || !alive(pid));
    assert!(!socket.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let agent = Agent::start();
    let second = Command::new(AGENT)
        .args(["serve", "--socket"])
        .arg(agent.socket())
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8(second.stderr).unwrap().contains("already serves on"));
    let dir = tempfile::tempdir().unwrap();
    drop(std::os::unix::net::UnixListener::bind(dir.path().join("agent.sock")).unwrap());
    let mut serve = Command::new(AGENT)
        .args(["serve", "--socket"])
        .arg(dir.path().join("agent.sock"))
        .spawn()
        .unwrap();
    eventually("it listens", || {
        std::os::unix::net::UnixStream::connect(dir.path().join("agent.sock")).is_ok()
    });
    serve.kill().unwrap();
    serve.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_signal_ends_the_agent_and_its_execs() {
    let mut agent = Agent::start();
    let mut exec = agent.exec().await;
    let pid = exec.start(shell("sleep 300")).await.unwrap().into_inner().pid;
    assert!(alive(pid));
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(agent.pid() as i32).unwrap(),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    eventually("the agent has ended", || agent.ended());
    assert!(!alive(pid) && !agent.socket().exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn invalid_data_on_the_socket_harms_no_other_client() {
    let agent = Agent::start();
    for invalid in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 100_000], b""] {
        let mut stream = std::os::unix::net::UnixStream::connect(agent.socket()).unwrap();
        // The agent may close the connection during the write.
        let _ = stream.write_all(invalid);
    }
    let mut exec = agent.exec().await;
    assert!(soon(exec.run(run(shell("true")))).await.is_ok());
}

#[test]
fn as_pid_1_the_agent_reaps_forwards_signals_and_restarts_its_worker() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command
        .args([
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            AGENT,
            "serve",
            "--socket",
        ])
        .arg(&socket);
    let mut init = KillOnDrop(command.spawn().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    eventually("it listens", || {
        std::os::unix::net::UnixStream::connect(&socket).is_ok()
    });
    let first = std::fs::metadata(&socket).unwrap().mtime_nsec();
    runtime.block_on(async {
        let mut exec = podbridge_proto::v1::exec_client::ExecClient::new(connect(socket.clone()).await);
        // Leave an orphan to PID 1, then kill the worker.
        let line = "sh -c 'sleep 0.1 & ' ; kill -KILL $PPID";
        let mut events = exec.run(run(shell(line))).await.unwrap().into_inner();
        while let Ok(Some(_)) = events.message().await {}
    });
    eventually("the worker has restarted", || {
        let second = std::fs::metadata(&socket).map(|meta| meta.mtime_nsec());
        second.is_ok_and(|second| second != first) && std::os::unix::net::UnixStream::connect(&socket).is_ok()
    });
    let seen = runtime.block_on(async {
        let mut exec = podbridge_proto::v1::exec_client::ExecClient::new(connect(socket.clone()).await);
        let line = "sleep 0.3; grep -l '^State:.Z' /proc/[0-9]*/status | wc -l";
        let seen = crate::harness::finish(exec.run(run(shell(line))).await.unwrap().into_inner()).await;
        exec.start(shell("kill -TERM 1")).await.unwrap();
        seen
    });
    assert_eq!(seen.stdout().trim(), "0");
    eventually("TERM to PID 1 ends it", || init.0.try_wait().unwrap().is_some());
}
