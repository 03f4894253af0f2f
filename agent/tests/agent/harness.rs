//! Starts a real agent in a directory of its own, and ends it with the test. Helpers run a command through it. All tests of the agent
//! and its benchmark use it.

use std::future::Future;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use podbridge_proto::v1::agent_client::AgentClient;
use podbridge_proto::v1::exec_client::ExecClient;
use podbridge_proto::v1::exec_event::Event;
use podbridge_proto::v1::exit_record::Cause;
use podbridge_proto::v1::files_client::FilesClient;
use podbridge_proto::v1::{ExecEvent, ExitRecord, RunRequest, StartRequest, StdinMode, Stream};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

pub(crate) const AGENT: &str = env!("CARGO_BIN_EXE_podbridge-agent");

/// A running agent; dropping it kills the agent.
pub(crate) struct Agent {
    pub(crate) dir: TempDir,
    process: Child,
}

impl Agent {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        Self::spawn(tempfile::tempdir().unwrap(), Command::new(AGENT), arguments)
    }

    /// Starts an agent whose spool is on a disk of 8 MiB, in a mount namespace that ends with the agent.
    pub(crate) fn start_with_small_disk() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk");
        std::fs::File::create(dir.path().join("image"))
            .and_then(|image| image.set_len(8 << 20))
            .and_then(|()| std::fs::create_dir(&disk))
            .unwrap();
        let mut command = Command::new("unshare");
        let mount = if cfg!(podbridge_qemu_user) {
            // Root of a user namespace may not mount an image.
            r#"cd "$0" && mount -t tmpfs -o size=7m tmpfs disk && exec "$@""#
        } else {
            r#"cd "$0" && mkfs.ext4 -q image && mount -o loop image disk && exec "$@""#
        };
        command
            .args(["--mount", "sh", "-c", mount])
            .args([dir.path().as_os_str(), AGENT.as_ref()])
            .env("PATH", format!("/usr/sbin:/sbin:{}", std::env::var("PATH").unwrap()));
        Self::spawn(dir, command, &["--spool", disk.to_str().unwrap()])
    }

    /// Starts an agent in a user namespace where this limit of /proc/sys/user is 0.
    pub(crate) fn start_without_inotify(limit: &str) -> Self {
        let mut command = Command::new("unshare");
        let line = format!(r#"echo 0 > /proc/sys/user/{limit} && exec "$@""#);
        command.args(["--user", "--map-root-user", "sh", "-c", &line, "sh", AGENT]);
        Self::spawn(tempfile::tempdir().unwrap(), command, &[])
    }

    /// Starts an agent by a program that executes it in the end.
    pub(crate) fn start_by(program: &str, arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // The program may make it an agent of another user.
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let mut command = Command::new(program);
        command.args(arguments).arg(AGENT);
        Self::spawn(dir, command, &[])
    }

    fn spawn(dir: TempDir, mut command: Command, arguments: &[&str]) -> Self {
        command
            .arg("serve")
            .arg("--socket")
            .arg(dir.path().join("agent.sock"))
            .args(arguments);
        let process = command
            .env("PODBRIDGE_LOG", "warn")
            // What a killed command leaves goes with this agent's directory.
            .env("TMPDIR", dir.path())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let agent = Self { dir, process };
        eventually("the agent listens", || {
            std::os::unix::net::UnixStream::connect(agent.socket()).is_ok()
        });
        agent
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn ended(&mut self) -> bool {
        self.process.try_wait().unwrap().is_some()
    }

    pub(crate) async fn channel(&self) -> Channel {
        connect(self.socket()).await
    }

    pub(crate) async fn exec(&self) -> ExecClient<Channel> {
        ExecClient::new(self.channel().await)
    }

    pub(crate) async fn files(&self) -> FilesClient<Channel> {
        FilesClient::new(self.channel().await)
    }

    pub(crate) async fn hello(&self) -> AgentClient<Channel> {
        AgentClient::new(self.channel().await)
    }

    /// Runs a shell command to its end.
    pub(crate) async fn sh(&self, line: &str) -> Finished {
        let stream = self.exec().await.run(run(shell(line))).await.unwrap().into_inner();
        finish(stream).await
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(crate) async fn connect(socket: PathBuf) -> Channel {
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://agent")
        .connect_with_connector(connector)
        .await
        .unwrap()
}

pub(crate) fn shell(line: &str) -> StartRequest {
    argv(&["/bin/sh", "-c", line])
}

pub(crate) fn argv(argv: &[&str]) -> StartRequest {
    StartRequest {
        exec_id: rand_id(),
        digest: vec![7u8; 32].into(),
        argv: argv.iter().map(|arg| arg.to_string().into()).collect(),
        ..Default::default()
    }
}

pub(crate) fn with_stdin(start: StartRequest, stdin: &'static [u8]) -> StartRequest {
    StartRequest {
        stdin_mode: StdinMode::Inline as i32,
        stdin: stdin.into(),
        ..start
    }
}

pub(crate) fn run(start: StartRequest) -> RunRequest {
    RunRequest {
        start: Some(start),
        ..Default::default()
    }
}

fn rand_id() -> bytes::Bytes {
    std::fs::read("/proc/sys/kernel/random/uuid").unwrap()[..16]
        .to_vec()
        .into()
}

/// All that a reader got of one exec.
#[derive(Debug, Default)]
pub(crate) struct Finished {
    pub(crate) pid: u32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) exit: Option<ExitRecord>,
    pub(crate) held_open: bool,
}

impl Finished {
    pub(crate) fn cause(&self) -> Cause {
        self.exit.clone().unwrap().cause.unwrap()
    }

    pub(crate) fn stdout(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }
}

/// Reads to `Closed`, and checks offsets and lengths.
pub(crate) async fn finish(mut stream: Streaming<ExecEvent>) -> Finished {
    let mut seen = Finished::default();
    while let Some(event) = stream.message().await.unwrap() {
        match event.event.unwrap() {
            Event::Started(started) => seen.pid = started.pid,
            Event::Output(output) => {
                let stderr = output.stream == Stream::Stderr as i32;
                let sink = if stderr { &mut seen.stderr } else { &mut seen.stdout };
                assert_eq!(output.offset, sink.len() as u64);
                sink.extend_from_slice(&output.data);
            }
            Event::Gap(gap) => panic!("{gap:?}"),
            Event::Exited(record) => seen.exit = Some(record),
            Event::Closed(closed) => {
                assert_eq!(closed.stdout_length, seen.stdout.len() as u64);
                assert_eq!(closed.stderr_length, seen.stderr.len() as u64);
                seen.held_open = closed.held_open;
                return seen;
            }
        }
    }
    panic!("the stream ended without Closed: {seen:?}")
}

/// Time after which a test fails that waits for something. Programs are many times slower under qemu-user.
const TEST_TIMEOUT: Duration = Duration::from_secs(if cfg!(podbridge_qemu_user) { 200 } else { 20 });

/// Short idle time of an agent, in seconds, in which a client can still connect to it.
pub(crate) const SHORT_IDLE: &str = if cfg!(podbridge_qemu_user) { "20" } else { "1" };

/// Waits until `condition` is true; fails after `TEST_TIMEOUT`.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < TEST_TIMEOUT, "not within {TEST_TIMEOUT:?}: {what}");
        // Nothing tells of the change, so this asks again and again.
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until an agent that nobody uses has ended after its short idle time. In this time nothing must happen to the tested agent.
pub(crate) async fn until_an_idle_agent_has_ended() {
    let mut idle = Agent::start_with(&["--idle", SHORT_IDLE]);
    soon(async {
        while !idle.ended() {
            // A process has no asynchronous wait here.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// Waits for `future`; fails after `TEST_TIMEOUT`, so that no test hangs.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(TEST_TIMEOUT, future)
        .await
        .expect("it ends in time")
}

/// Returns true if the process exists and is no zombie.
pub(crate) fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

pub(crate) fn zombies_of(parent: u32) -> usize {
    let pids = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    let stats = pids.filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok());
    stats.filter(|stat| stat.contains(&format!(") Z {parent} "))).count()
}
