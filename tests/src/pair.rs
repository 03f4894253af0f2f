//! An agent and the bridges of one test, in a directory of their own. All of them end with the test. The tests and soaks call it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::proxy::Proxy;

/// How long [`eventually`] waits for a condition.
const CONDITION_TIMEOUT: Duration = Duration::from_secs(30);

/// An agent, and the directory for the bridges that dial it.
#[derive(Debug)]
pub struct Pair {
    dir: TempDir,
    /// `None`: the test itself answers on the socket.
    agent: Option<Child>,
    /// Socket that bridges dial: the agent's, or a proxy's.
    socket: PathBuf,
}

/// Returns the path of a binary of the workspace. Cargo builds all of them into one directory; tests are in `deps` below it.
pub fn binary(name: &str) -> PathBuf {
    let this = std::env::current_exe().unwrap();
    let mut dir = this.parent().unwrap();
    if dir.ends_with("deps") {
        dir = dir.parent().unwrap();
    }
    let path = dir.join(name);
    assert!(
        path.exists(),
        "{} is missing: run cargo test --workspace",
        path.display()
    );
    path
}

/// Returns the path of a binary of the previous build, which `make test-rust` makes from the commit in tests/previous-build.
pub fn previous_binary(name: &str) -> PathBuf {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let cache = variable("PODBRIDGE_CACHE_DIR")
        .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("podbridge")))
        .or_else(|| Some(variable("HOME")?.join(".cache/podbridge")))
        .unwrap();
    let path = cache
        .join(format!("previous-{}", include_str!("../previous-build").trim()))
        .join(name);
    // /proc shows a process's program without symbolic links.
    let real_path = path.canonicalize();
    real_path.unwrap_or_else(|_| panic!("{} is missing: run make test-rust", path.display()))
}

impl Pair {
    pub fn start() -> Self {
        Self::with_agent(&binary("podbridge-agent"))
    }

    pub fn with_agent(program: &Path) -> Self {
        Self::launch(&mut Command::new(program))
    }

    /// Starts a pair whose agent writes a log of this level to a file.
    pub fn with_log(level: &str, file: fs::File) -> Self {
        let mut command = Command::new(binary("podbridge-agent"));
        Self::launch(command.env("PODBRIDGE_LOG", level).stderr(file))
    }

    fn launch(command: &mut Command) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("agent.sock");
        command.arg("serve").arg("--socket").arg(&socket).stdin(Stdio::null());
        let agent = command.spawn().unwrap();
        eventually("the agent listens", || UnixStream::connect(&socket).is_ok());
        Self {
            dir,
            agent: Some(agent),
            socket,
        }
    }

    /// Makes a pair whose agent the test is: it listens on [`Pair::agent_socket`], where nothing is yet.
    pub fn without_agent() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("agent.sock");
        Self {
            dir,
            agent: None,
            socket,
        }
    }

    /// Starts a pair with a proxy between bridges and agent.
    pub fn with_proxy(seed: u64) -> (Self, Proxy) {
        let mut pair = Self::start();
        let socket = pair.dir.path().join("proxy.sock");
        let proxy = Proxy::unix(&socket, &pair.socket, seed);
        pair.socket = socket;
        (pair, proxy)
    }

    /// Returns the socket that bridges dial.
    pub fn agent_socket(&self) -> &Path {
        &self.socket
    }

    /// Returns the directory of this pair; a test may have files in it.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Returns the directory of the bridges' sockets.
    pub fn bridge_dir(&self) -> PathBuf {
        self.dir.path().join("bridges")
    }

    /// Returns podbridge with these arguments.
    pub fn podbridge(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(&binary("podbridge"));
        command.args(arguments);
        command
    }

    /// Returns a program in the environment that podbridge needs for this pair: podbridge itself, or one that runs it.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .stdin(Stdio::null())
            .env("PODBRIDGE_DIR", self.bridge_dir())
            .env("PODBRIDGE_LINK", "local")
            .env("PODBRIDGE_LOG", "error");
        command.env("PODBRIDGE_AGENT_SOCKET", &self.socket);
        command
    }

    /// Returns `podbridge exec` with this command.
    pub fn exec(&self, argv: &[&str]) -> Command {
        self.podbridge(&[&["exec", "-i", "x", "--"], argv].concat())
    }

    /// Starts a command that runs until it is killed; returns its client and the pid of the command.
    pub fn exec_until_killed(&self) -> (Child, u32) {
        let mut command = self.exec(&["sh", "-c", "echo $$; exec sleep 300"]);
        let mut client = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(client.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        (client, line.trim().parse().unwrap())
    }

    pub fn kill_agent(&mut self) {
        let agent = self.agent.as_mut().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    /// Starts another agent in place of the one that was killed, as a container that is made anew does.
    pub fn start_agent_again(&mut self) {
        let mut command = Command::new(binary("podbridge-agent"));
        command
            .arg("serve")
            .arg("--socket")
            .arg(&self.socket)
            .stdin(Stdio::null());
        self.agent = Some(command.spawn().unwrap());
        eventually("the agent listens", || UnixStream::connect(&self.socket).is_ok());
    }

    /// Returns the process of the agent.
    pub fn agent(&self) -> u32 {
        self.agent.as_ref().unwrap().id()
    }

    /// Returns the running processes that the agent has started.
    pub fn commands(&self) -> Vec<u32> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.agent())).unwrap().flatten();
        let children = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
        let pids = children.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        pids.filter_map(|pid| pid.parse().ok()).collect()
    }

    /// Returns the processes of this pair's bridges.
    pub fn bridges(&self) -> Vec<u32> {
        bridges_of(&self.bridge_dir())
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for bridge in self.bridges() {
            send_signal(bridge, Signal::KILL);
        }
        // TERM, and not KILL: the agent ends its commands first.
        if let Some(agent) = &mut self.agent {
            send_signal(agent.id(), Signal::TERM);
            let _ = agent.wait();
        }
    }
}

/// Returns the processes of `podbridge bridge` whose sockets are in `dir`.
pub fn bridges_of(dir: &Path) -> Vec<u32> {
    let entry = format!("PODBRIDGE_DIR={}", dir.display()).into_bytes();
    let pids = fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let has = |file: &str, wanted: &[u8]| {
            fs::read(format!("/proc/{pid}/{file}")).is_ok_and(|all| all.split(|b| *b == 0).any(|e| e == wanted))
        };
        has("environ", &entry) && has("cmdline", b"bridge") && is_alive(*pid)
    })
    .collect()
}

/// Sends a signal, if the process still exists.
pub fn send_signal(pid: u32, signal: Signal) {
    // The process may have ended by itself.
    let _ = kill_process(Pid::from_raw(pid as i32).unwrap(), signal);
}

/// Tells whether a process exists and is no zombie.
pub fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

/// Waits until `condition` is true; fails the test after half a minute.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < CONDITION_TIMEOUT,
            "not within {CONDITION_TIMEOUT:?}: {what}"
        );
        // Nothing tells of the change, so this asks again and again.
        std::thread::sleep(Duration::from_millis(10));
    }
}
