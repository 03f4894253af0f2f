//! A Zuul build as podbridge sees it: the directory with the kubeconfig, reserved ports, and `kubectl port-forward` for each pod, which
//! is podbridge under another name. `process/zuul.rs` calls it.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket, sockopt};
use tempfile::TempDir;

use crate::pair::{Pair, binary, eventually};

/// How long a read of a console waits for an answer that must come.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// The directory of a build, with its kubeconfig and the programs `kubectl` and `oc`.
#[derive(Debug)]
pub struct Build {
    dir: TempDir,
}

impl Default for Build {
    fn default() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::DirBuilder::new()
            .mode(0o700)
            .create(dir.path().join("kube"))
            .unwrap();
        fs::create_dir(dir.path().join("bin")).unwrap();
        for name in ["kubectl", "oc"] {
            symlink(binary("podbridge"), dir.path().join("bin").join(name)).unwrap();
        }
        let build = Self { dir };
        fs::write(
            build.kubeconfig(),
            r#"{"apiVersion": "v1", "kind": "Config", "current-context": "ctx",
                "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}], "users": [],
                "contexts": [{"name": "ctx", "context": {"cluster": "c", "namespace": "ns"}}]}"#,
        )
        .unwrap();
        build
    }
}

impl Build {
    /// Returns the directory of the kubeconfig, where the sockets of the build's bridges are.
    pub fn kubeconfig_dir(&self) -> PathBuf {
        self.dir.path().join("kube")
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig_dir().join("config")
    }

    /// Returns the log of the build's bridges.
    pub fn log(&self) -> PathBuf {
        self.dir.path().join("bridge.log")
    }

    /// Returns the socket of the build's only bridge.
    pub fn socket(&self) -> PathBuf {
        let mut socket = None;
        eventually("the bridge has a socket", || {
            let entries = fs::read_dir(self.kubeconfig_dir()).unwrap().flatten();
            let is_socket = |path: &PathBuf| path.metadata().is_ok_and(|file| file.file_type().is_socket());
            let is_hidden = |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes()[0] == b'.');
            socket = entries
                .map(|entry| entry.path())
                .find(|path| is_socket(path) && !is_hidden(path));
            socket.is_some()
        });
        socket.unwrap()
    }

    /// Removes the build's directory, as Zuul does while the bridges run.
    pub fn remove(&self) {
        fs::remove_dir_all(self.dir.path()).unwrap();
    }

    /// Returns the shim, for a pod whose agent is that of `pair`.
    pub fn kubectl(&self, pair: &Pair, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.dir.path().join("bin/kubectl"));
        command
            .args(arguments)
            .stdin(Stdio::null())
            .env("KUBECONFIG", self.kubeconfig())
            .env("PODBRIDGE_LINK", "local")
            .env("PODBRIDGE_AGENT_SOCKET", pair.agent_socket())
            .env("HOME", self.dir.path().join("home"))
            .env("PODBRIDGE_LOG", self.log());
        command
    }

    /// Starts the bridge of a pod, as Zuul does.
    pub fn start_bridge(&self, pair: &Pair, pod: &str) -> SlotBridge {
        self.start_bridge_with(pair, pod, &[])
    }

    /// Starts the bridge of a pod with these variables beside the usual ones.
    pub fn start_bridge_with(&self, pair: &Pair, pod: &str, variables: &[(&str, &str)]) -> SlotBridge {
        let ports = [ReservedPort::default(), ReservedPort::default()];
        SlotBridge::start(self, pair, pod, ports, variables)
    }
}

/// A port reserved as Zuul reserves it: bound on all addresses, without a listener.
#[derive(Debug)]
pub struct ReservedPort {
    pub port: u16,
    _socket: OwnedFd,
}

impl Default for ReservedPort {
    fn default() -> Self {
        let socket = socket(AddressFamily::INET6, SocketType::STREAM, None).unwrap();
        sockopt::set_socket_reuseaddr(&socket, true).unwrap();
        bind(&socket, &SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0)).unwrap();
        let bound: SocketAddrV6 = getsockname(&socket).unwrap().try_into().unwrap();
        Self {
            port: bound.port(),
            _socket: socket,
        }
    }
}

/// The bridge of one pod of a build.
#[derive(Debug)]
pub struct SlotBridge {
    pub child: Child,
    pub ports: [ReservedPort; 2],
    /// The two lines that Zuul waits for.
    pub announced: Vec<String>,
    /// The bridge's stdout after these lines.
    pub stdout: BufReader<std::process::ChildStdout>,
}

impl SlotBridge {
    fn start(build: &Build, pair: &Pair, pod: &str, ports: [ReservedPort; 2], variables: &[(&str, &str)]) -> Self {
        let kubeconfig = format!("--kubeconfig={}", build.kubeconfig().display());
        let forwards = [(0, 19885), (1, 19886)].map(|(i, to)| format!("{}:{to}", ports[i].port));
        let pod = format!("pod/{pod}");
        let mut command = build.kubectl(
            pair,
            &[
                &kubeconfig,
                "--context=ctx",
                "-n",
                "ns",
                "port-forward",
                &pod,
                &forwards[0],
                &forwards[1],
            ],
        );
        command.envs(variables.iter().copied());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = || {
            let mut line = String::new();
            stdout.read_line(&mut line).unwrap();
            line
        };
        let announced = vec![line(), line()];
        Self {
            child,
            ports,
            announced,
            stdout,
        }
    }

    /// Kills the bridge and starts it again on the same ports, as Zuul's loop does.
    pub fn restart(mut self, build: &Build, pair: &Pair, pod: &str) -> Self {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let ports = std::mem::take(&mut self.ports);
        Self::start(build, pair, pod, ports, &[])
    }

    /// Connects to the console stream and asks for its version.
    pub fn open_console(&self) -> Console {
        let mut console = Console::connect(self.ports[0].port);
        console.send("v:0\n");
        assert_eq!(console.read_line(), "1\n");
        console
    }

    /// Connects to the console stream and asks for a log.
    pub fn open_log(&self, id: &str) -> Console {
        let mut console = self.open_console();
        console.send(&format!("s:{id}\n"));
        console
    }
}

impl Drop for SlotBridge {
    fn drop(&mut self) {
        // The bridge may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection to the console stream.
#[derive(Debug)]
pub struct Console(BufReader<TcpStream>);

impl Console {
    pub fn connect(port: u16) -> Self {
        Self::connect_to(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
    }

    pub fn connect_to(address: SocketAddrV4) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(ANSWER_TIMEOUT)).unwrap();
        Self(BufReader::new(stream))
    }

    pub fn send(&mut self, request: &str) {
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
    }

    /// Returns the next line, with its newline; an empty string at the end of the stream.
    pub fn read_line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line
    }

    /// Returns the next line that does not say that there is no log.
    pub fn read_log_line(&mut self) -> String {
        loop {
            let line = self.read_line();
            if line != "[Zuul] Log not found\n" {
                return line;
            }
        }
    }

    /// Returns the next bytes that do not say that there is no log.
    pub fn read_log_bytes(&mut self) -> Vec<u8> {
        const NOT_FOUND: &[u8] = b"[Zuul] Log not found\n";
        loop {
            let bytes = self.read_bytes(NOT_FOUND.len());
            if bytes != NOT_FOUND {
                return bytes;
            }
        }
    }

    pub fn read_bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Tells whether nothing comes for this time.
    pub fn is_silent(&mut self, time: Duration) -> bool {
        self.0.get_ref().set_read_timeout(Some(time)).unwrap();
        let silent = self.0.fill_buf().is_err();
        self.0.get_ref().set_read_timeout(Some(ANSWER_TIMEOUT)).unwrap();
        silent
    }
}

/// A console log at the path where Zuul's `command` module writes it. The drop deletes it.
#[derive(Debug)]
pub struct LogFile {
    pub id: String,
    pub path: PathBuf,
}

impl Default for LogFile {
    fn default() -> Self {
        let id = format!("podbridge-{:032x}-1-node", fastrand::u128(..));
        Self {
            path: Path::new("/tmp").join(format!("console-{id}.log")),
            id,
        }
    }
}

impl LogFile {
    pub fn append(&self, data: &[u8]) {
        let mut file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.path)
            .unwrap();
        file.write_all(data).unwrap();
    }
}

impl Drop for LogFile {
    fn drop(&mut self) {
        // The test may have deleted it.
        let _ = fs::remove_file(&self.path);
    }
}
