//! An agent and the bridges of one test, in a directory of their own; all of them end with it.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::proxy::Proxy;

const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Pair {
    dir: TempDir,
    agent: Child,
    /// What bridges dial.
    link: PathBuf,
}

/// Cargo builds the binaries of the workspace into the directory of this one, or above it for a test.
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

/// The same of the build before this one, which `make test-rust` makes from the commit that tests/previous-build names.
pub fn previous(name: &str) -> PathBuf {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let cache = variable("PODBRIDGE_CACHE_DIR")
        .or_else(|| Some(variable("XDG_CACHE_HOME")?.join("podbridge")))
        .or_else(|| Some(variable("HOME")?.join(".cache/podbridge")))
        .unwrap();
    let path = cache
        .join(format!("previous-{}", include_str!("../previous-build").trim()))
        .join(name);
    // As the system names it.
    let found = path.canonicalize();
    found.unwrap_or_else(|_| panic!("{} is missing: run make test-rust", path.display()))
}

impl Pair {
    pub fn start() -> Self {
        Self::with_agent(&binary("podbridge-agent"))
    }

    pub fn with_agent(program: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("agent.sock");
        let mut command = Command::new(program);
        command.arg("serve").arg("--socket").arg(&socket).stdin(Stdio::null());
        let agent = command.spawn().unwrap();
        eventually("the agent listens", || UnixStream::connect(&socket).is_ok());
        Self {
            dir,
            agent,
            link: socket,
        }
    }

    /// The same, with a proxy between them.
    pub fn with_proxy(seed: u64) -> (Self, Proxy) {
        let mut pair = Self::start();
        let link = pair.dir.path().join("proxy.sock");
        let proxy = Proxy::unix(&link, &pair.link, seed);
        pair.link = link;
        (pair, proxy)
    }

    /// The socket that bridges dial.
    pub fn link(&self) -> &Path {
        &self.link
    }

    /// For files of the test.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn bridge_dir(&self) -> PathBuf {
        self.dir.path().join("bridges")
    }

    pub fn podbridge(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(&binary("podbridge"));
        command.args(arguments);
        command
    }

    /// A program that runs podbridge.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .stdin(Stdio::null())
            .env("PODBRIDGE_DIR", self.bridge_dir())
            .env("PODBRIDGE_LINK", "local")
            .env("PODBRIDGE_LOG", "error");
        command.env("PODBRIDGE_AGENT_SOCKET", &self.link);
        command
    }

    pub fn exec(&self, argv: &[&str]) -> Command {
        self.podbridge(&[&["exec", "-i", "x", "--"], argv].concat())
    }

    /// A client whose command runs until something happens, and the command's pid.
    pub fn exec_long(&self) -> (Child, u32) {
        let mut command = self.exec(&["sh", "-c", "echo $$; exec sleep 300"]);
        let mut client = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(client.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        (client, line.trim().parse().unwrap())
    }

    pub fn kill_agent(&mut self) {
        self.agent.kill().unwrap();
        self.agent.wait().unwrap();
    }

    /// Processes that the agent has started and that run.
    pub fn commands(&self) -> Vec<u32> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.agent.id()))
            .unwrap()
            .flatten();
        let children = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
        let pids = children.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        pids.filter_map(|pid| pid.parse().ok()).collect()
    }

    /// Processes of the bridges that belong to this test.
    pub fn bridges(&self) -> Vec<u32> {
        bridges_of(&self.bridge_dir())
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        for bridge in self.bridges() {
            kill(bridge, Signal::KILL);
        }
        // TERM, and not KILL: the agent ends what it runs.
        kill(self.agent.id(), Signal::TERM);
        let _ = self.agent.wait();
    }
}

/// Processes of `podbridge bridge` whose files are in `dir`.
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
        has("environ", &entry) && has("cmdline", b"bridge") && alive(*pid)
    })
    .collect()
}

pub fn kill(pid: u32, signal: Signal) {
    // It may have ended by itself.
    let _ = kill_process(Pid::from_raw(pid as i32).unwrap(), signal);
}

pub fn alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
