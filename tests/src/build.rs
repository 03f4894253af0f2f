//! A build as Zuul's executor runs it, as far as podbridge sees: the directory with the kubeconfig, ports held reserved, and
//! `kubectl port-forward` for its pods, which is podbridge by another name.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv6Addr, SocketAddrV6, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, bind, getsockname, socket, sockopt};
use tempfile::TempDir;

use crate::pair::{Pair, binary};

/// For an answer that must come.
const PATIENCE: Duration = Duration::from_secs(30);

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
    pub fn kube(&self) -> PathBuf {
        self.dir.path().join("kube")
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.kube().join("config")
    }

    /// Zuul removes the job's directory while its bridges run.
    pub fn remove(&self) {
        fs::remove_dir_all(self.dir.path()).unwrap();
    }

    /// The shim, for a pod whose agent is that of `pair`.
    pub fn kubectl(&self, pair: &Pair, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.dir.path().join("bin/kubectl"));
        command
            .args(arguments)
            .stdin(Stdio::null())
            .env("KUBECONFIG", self.kubeconfig())
            .env("PODBRIDGE_LINK", "local")
            .env("PODBRIDGE_AGENT_SOCKET", pair.link())
            .env("HOME", self.dir.path().join("home"))
            .env_remove("PODBRIDGE_LOG");
        command
    }

    /// Starts the bridge of a pod, as Zuul does.
    pub fn forward(&self, pair: &Pair, pod: &str) -> Forward {
        Forward::start(self, pair, pod, [Reserved::default(), Reserved::default()])
    }
}

/// A port held as Zuul holds it: bound for all addresses, not listened on.
#[derive(Debug)]
pub struct Reserved {
    pub port: u16,
    _socket: OwnedFd,
}

impl Default for Reserved {
    fn default() -> Self {
        let held = socket(AddressFamily::INET6, SocketType::STREAM, None).unwrap();
        sockopt::set_socket_reuseaddr(&held, true).unwrap();
        bind(&held, &SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0)).unwrap();
        let bound: SocketAddrV6 = getsockname(&held).unwrap().try_into().unwrap();
        Self {
            port: bound.port(),
            _socket: held,
        }
    }
}

/// A bridge in Zuul's slot.
#[derive(Debug)]
pub struct Forward {
    pub child: Child,
    pub ports: [Reserved; 2],
    pub said: Vec<String>,
    /// Zuul's end of the pipe.
    pub pipe: BufReader<std::process::ChildStdout>,
}

impl Forward {
    fn start(build: &Build, pair: &Pair, pod: &str, ports: [Reserved; 2]) -> Self {
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
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut pipe = BufReader::new(child.stdout.take().unwrap());
        let mut line = || {
            let mut line = String::new();
            pipe.read_line(&mut line).unwrap();
            line
        };
        let said = vec![line(), line()];
        Self {
            child,
            ports,
            said,
            pipe,
        }
    }

    /// The bridge has died: Zuul's loop starts it again on the same ports.
    pub fn restart(mut self, build: &Build, pair: &Pair, pod: &str) -> Self {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let ports = std::mem::take(&mut self.ports);
        Self::start(build, pair, pod, ports)
    }

    /// A connection to the console stream that has asked for its version.
    pub fn console(&self) -> Console {
        let mut console = Console::connect(self.ports[0].port);
        console.say("v:0\n");
        assert_eq!(console.line(), "1\n");
        console
    }

    /// One that has asked for a log.
    pub fn log(&self, id: &str) -> Console {
        let mut console = self.console();
        console.say(&format!("s:{id}\n"));
        console
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Debug)]
pub struct Console(BufReader<TcpStream>);

impl Console {
    pub fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(BufReader::new(stream))
    }

    pub fn say(&mut self, request: &str) {
        self.0.get_mut().write_all(request.as_bytes()).unwrap();
    }

    /// Empty at the end.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line
    }

    /// The next line that does not say that there is no log.
    pub fn found(&mut self) -> String {
        loop {
            let line = self.line();
            if line != "[Zuul] Log not found\n" {
                return line;
            }
        }
    }

    /// A few bytes of a log, whatever was said before.
    pub fn bytes_found(&mut self) -> Vec<u8> {
        const NOT_FOUND: &[u8] = b"[Zuul] Log not found\n";
        loop {
            let bytes = self.bytes(NOT_FOUND.len());
            if bytes != NOT_FOUND {
                return bytes;
            }
        }
    }

    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// Whether nothing comes for a moment.
    pub fn is_silent(&mut self, moment: Duration) -> bool {
        self.0.get_ref().set_read_timeout(Some(moment)).unwrap();
        let silent = self.0.fill_buf().is_err();
        self.0.get_ref().set_read_timeout(Some(PATIENCE)).unwrap();
        silent
    }
}

/// A console log where Zuul's `command` module writes it; deleted at the end.
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

/// Runs a command through a bridge's socket as the Ansible plugin does, its standard input a memfd; the result.
pub fn exec_with_payload(bridge: &Path, argv: &[&str], payload: &[u8]) -> serde_json::Value {
    use std::io::IoSlice;
    use std::mem::MaybeUninit;
    use std::os::fd::AsFd as _;
    use std::os::unix::net::UnixStream;

    use rustix::fs::{MemfdFlags, memfd_create};
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

    let memory = fs::File::from(memfd_create("payload", MemfdFlags::CLOEXEC).unwrap());
    (&memory).write_all(payload).unwrap();
    let request = serde_json::json!({"v": 1, "op": "exec", "argv": argv, "stdin": "fd"}).to_string();
    let mut frame = u32::try_from(request.len() + 1).unwrap().to_be_bytes().to_vec();
    frame.push(0x01);
    frame.extend_from_slice(request.as_bytes());
    let mut stream = UnixStream::connect(bridge).unwrap();
    let descriptors = [memory.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    let sent = sendmsg(&stream, &[IoSlice::new(&frame)], &mut control, SendFlags::empty()).unwrap();
    assert_eq!(sent, frame.len());
    loop {
        let mut header = [0; 5];
        stream.read_exact(&mut header).unwrap();
        let length = u32::from_be_bytes(header[..4].try_into().unwrap()) as usize - 1;
        let mut body = vec![0; length];
        stream.read_exact(&mut body).unwrap();
        if header[4] == 0x1f {
            return serde_json::from_slice(&body).unwrap();
        }
    }
}
