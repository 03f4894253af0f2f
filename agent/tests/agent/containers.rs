//! Tests of an agent among containers: shared directories, cleaned directories, a first process that does not reap, the environment. A
//! container is a mount namespace here, as in Kubernetes.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use podbridge_proto::limits::PROXY_MAGIC;
use podbridge_proto::v1::exec_client::ExecClient;
use tempfile::TempDir;

use crate::harness::{AGENT, alive, argv, connect, eventually, finish, run, zombies_of};

/// Idle time of the detached agents of these tests, in seconds.
const IDLE: &str = if cfg!(podbridge_qemu_user) { "60" } else { "5" };

/// A process with namespaces of its own; it and all processes in its pid namespace are killed at the end of the test.
struct Container(Child);

impl Container {
    /// Starts a container whose first process reaps nothing.
    fn start() -> Self {
        let child = Command::new("unshare")
            .args([
                "--user",
                "--map-root-user",
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
            ])
            .args(["--mount-proc", "sleep", "300"])
            .spawn()
            .unwrap();
        let container = Self(child);
        eventually("the container has a first process", || {
            container.first_process().is_some()
        });
        container
    }

    /// Returns the pid of the first process, outside of the container.
    fn first_process(&self) -> Option<u32> {
        let pid = self.0.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        let first: u32 = children.split_whitespace().next()?.parse().ok()?;
        // Before, it is still `unshare`, which mounts.
        let name = std::fs::read_to_string(format!("/proc/{first}/comm")).ok()?;
        (name.trim() == "sleep").then_some(first)
    }

    /// Returns a command that runs a program in the container, as the container runtime does: its parent is outside.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(self.first_process().unwrap().to_string());
        command.args(["--user", "--preserve-credentials", "--mount", "--pid", "--", program]);
        command
    }

    fn agent(&self, arguments: &[&str], socket: &Path) -> Output {
        output(self.command(AGENT).args(arguments).arg(socket))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn output(command: &mut Command) -> Output {
    loop {
        match command.stdin(Stdio::null()).output() {
            // Another test has forked while this one wrote the program, and its child has not executed its own yet.
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => std::thread::yield_now(),
            output => return output.unwrap(),
        }
    }
}

fn agent(arguments: &[&str], socket: &Path) -> Output {
    output(Command::new(AGENT).args(arguments).arg(socket))
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

const SERVE: [&str; 5] = ["serve", "--daemon", "--idle", IDLE, "--container-socket"];
const PROBE: [&str; 3] = ["proxy", "--probe", "--container-socket"];

/// Returns the sockets in a directory.
fn sockets(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "sock"))
        .collect()
}

#[test]
fn containers_that_share_a_directory_have_an_agent_each() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let (first, second) = (Container::start(), Container::start());
    assert!(first.agent(&SERVE, &socket).status.success());
    assert_eq!(stdout(&first.agent(&PROBE, &socket)), "running\n");
    assert_eq!(stdout(&second.agent(&PROBE, &socket)), "ready\n");
    assert_eq!(stdout(&agent(&PROBE, &socket)), "ready\n");
    let of_first = sockets(dir.path());
    assert_eq!(of_first.len(), 1, "{of_first:?}");
    assert!(second.agent(&SERVE, &socket).status.success());
    assert_eq!(stdout(&second.agent(&PROBE, &socket)), "running\n");
    assert_eq!(sockets(dir.path()).len(), 2);
    // The agent closes the connection of whoever comes past the proxy.
    let mut stranger = UnixStream::connect(&of_first[0]).unwrap();
    let _ = stranger.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    let mut answer = Vec::new();
    let _ = stranger.read_to_end(&mut answer);
    assert_eq!(answer, b"");
}

#[test]
fn the_proxy_refuses_an_agent_of_another_container_before_the_first_byte() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("chosen.sock");
    let container = Container::start();
    let serve = ["serve", "--daemon", "--idle", IDLE, "--socket"];
    assert!(container.agent(&serve, &socket).status.success());
    assert_eq!(
        stdout(&container.agent(&["proxy", "--probe", "--socket"], &socket)),
        "running\n"
    );
    for options in [&["proxy", "--socket"][..], &["proxy", "--start", "--socket"]] {
        let refused = agent(options, &socket);
        let message = String::from_utf8(refused.stderr).unwrap();
        assert_eq!((refused.status.code(), refused.stdout), (Some(1), Vec::new()));
        assert!(message.contains("started by another container"), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[test]
fn an_agent_leaves_no_zombie_with_a_first_process_that_does_not_reap() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    let container = Container::start();
    let first = container.first_process().unwrap();
    for _ in 0..3 {
        let mut proxy = container.command(AGENT);
        proxy
            .args(["proxy", "--start", "--idle", "0", "--container-socket"])
            .arg(&socket);
        proxy.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut proxy = proxy.spawn().unwrap();
        let mut magic = vec![0; PROXY_MAGIC.len()];
        proxy.stdout.as_mut().unwrap().read_exact(&mut magic).unwrap();
        // The link ends; the proxy keeps no stream of it open, and stays until the agent has ended.
        drop(proxy.stdin.take());
        let nsenter = proxy.id();
        eventually("the proxy has closed its streams", || {
            let children = std::fs::read_to_string(format!("/proc/{nsenter}/task/{nsenter}/children")).unwrap();
            let stdout = std::fs::read_link(format!("/proc/{}/fd/1", children.trim()));
            stdout.is_ok_and(|path| path == Path::new("/dev/null"))
        });
        assert_eq!(stdout(&container.agent(&PROBE, &socket)), "running\n");
        let end = "for p in /proc/[0-9]*; do grep -qzx -- --detached $p/cmdline && kill ${p#/proc/}; done";
        output(container.command("sh").args(["-c", end]));
        assert!(proxy.wait().unwrap().success());
    }
    // An agent that cannot start, either.
    let failed = container.agent(
        &["proxy", "--start", "--container-socket"],
        Path::new("/proc/agent.sock"),
    );
    assert_eq!(failed.status.code(), Some(1));
    assert_eq!(zombies_of(first), 0);
}

/// Starts a detached agent that serves in `dir`; returns its pid.
fn start_detached(dir: &TempDir) -> (PathBuf, u32) {
    let socket = dir.path().join("own/agent-abcd.sock");
    assert!(agent(&SERVE, &socket).status.success());
    let mut command = Command::new("pgrep");
    let found = stdout(&output(
        command.args(["-f", &format!("detached.*{}", socket.display())]),
    ));
    (socket, found.trim().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_agent_is_found_after_its_files_were_removed() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, pid) = start_detached(&dir);
    let own = socket.parent().unwrap();
    let listening = sockets(own).remove(0);
    let mut exec = ExecClient::new(connect(listening.clone()).await);
    let running = exec.start(argv(&["sleep", "300"])).await.unwrap().into_inner().pid;
    std::fs::remove_dir_all(own).unwrap();
    let by_process = |digest: &str| {
        output(Command::new(AGENT).args(["proxy", "--probe", "--digest", digest, "--process", &pid.to_string()]))
    };
    assert_eq!(stdout(&by_process("abcd")), "running\n");
    assert_eq!(by_process("ffff").status.code(), Some(1), "an agent of another release");
    assert_eq!(stdout(&agent(&PROBE, &socket)), "running\n");
    eventually("the socket is there again", || UnixStream::connect(&listening).is_ok());
    let mut again = ExecClient::new(connect(listening).await);
    let seen = finish(again.run(run(argv(&["echo", "here"]))).await.unwrap().into_inner()).await;
    assert_eq!(seen.stdout(), "here\n");
    assert!(alive(running) && alive(pid));
    let agent = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(agent, rustix::process::Signal::TERM).unwrap();
    eventually("the agent has ended", || !alive(pid) && !alive(running));
    assert!(sockets(own).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn commands_have_the_environment_that_the_runtime_gave_to_the_last_name() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("agent.sock");
    // `sh` drops the odd names, and adds PWD.
    let line = r#""$0" proxy --start --idle 5 --parent-environment --container-socket "$1" & wait $!"#;
    let mut shell = Command::new("sh");
    shell.args(["-c", line, AGENT]).arg(&socket).env_clear();
    let odd = [
        ("spring.profile", "x"),
        ("with-dash", "y z"),
        ("1ST", ""),
        ("PLAIN", "a=b\nc"),
        ("PATH", "/usr/bin:/bin"),
    ];
    let mut started = shell.envs(odd).stdin(Stdio::null()).spawn().unwrap();
    eventually("the agent listens", || !sockets(dir.path()).is_empty());
    let mut exec = ExecClient::new(connect(sockets(dir.path()).remove(0)).await);
    let seen = finish(exec.run(run(argv(&["env", "-0"]))).await.unwrap().into_inner()).await;
    let mut actual: Vec<_> = seen.stdout().split_terminator('\0').collect();
    actual.sort_unstable();
    let mut expected = odd.map(|(name, value)| format!("{name}={value}"));
    expected.sort_unstable();
    assert_eq!(actual, expected);
    drop(exec);
    assert!(started.wait().unwrap().success(), "the proxy ends with its agent");
}

/// Its standard output is no pipe, so it copies. Its link ends first, and the input that nobody needs any more ends later.
#[test]
fn a_proxy_survives_an_input_that_ends_after_its_link() {
    let dir = tempfile::tempdir().unwrap();
    let mut proxy = Command::new(AGENT);
    proxy
        .args(["proxy", "--start", "--idle", "0", "--container-socket"])
        .arg(dir.path().join("agent.sock"));
    let mut proxy = proxy.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut input = proxy.stdin.take().unwrap();
    // No agent takes this for HTTP/2.
    input.write_all(&[b'x'; 64]).unwrap();
    let stdin = format!("/proc/{}/fd/0", proxy.id());
    eventually("the link has ended", || {
        std::fs::read_link(&stdin).is_ok_and(|path| path == Path::new("/dev/null"))
    });
    drop(input);
    let [socket] = &sockets(dir.path())[..] else {
        panic!("an agent has one socket");
    };
    let agent = rustix::net::sockopt::socket_peercred(UnixStream::connect(socket).unwrap()).unwrap();
    rustix::process::kill_process(agent.pid, rustix::process::Signal::TERM).unwrap();
    let status = proxy.wait().unwrap();
    assert_eq!(status.code(), Some(1), "the link was cut: {status}");
}

#[test]
fn a_damaged_program_starts_no_agent() {
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("podbridge-agent");
    let mut content = std::fs::read(AGENT).unwrap();
    let digest: String = <sha2::Sha256 as sha2::Digest>::digest(&content)[..4]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let socket = dir.path().join("agent.sock");
    let probe = |content: &[u8]| {
        std::fs::write(&copy, content).unwrap();
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
        output(
            Command::new(&copy)
                .args(["proxy", "--probe", "--digest", &digest, "--container-socket"])
                .arg(&socket),
        )
    };
    assert_eq!(stdout(&probe(&content)), "ready\n");
    // The section headers at the end: the program runs all the same.
    *content.last_mut().unwrap() ^= 1;
    let damaged = probe(&content);
    assert_eq!((damaged.status.code(), damaged.stdout), (Some(1), Vec::new()));
    assert!(String::from_utf8(damaged.stderr).unwrap().contains("is damaged"));
}
