//! A server that speaks as much of the Kubernetes API as a dial asks for: one pod, and `pods/exec`. It runs on threads of this process, over
//! plain HTTP on loopback. `row` starts it.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use podbridge_proto::limits::PROXY_MAGIC;
use podbridge_tests::own_address::own_address;
use serde_json::json;

use crate::false_pod::websocket::WebSocket;

/// What a program in the container does with its streams. An error ends it: the bridge has closed.
pub(super) type Program = fn(&mut WebSocket) -> io::Result<()>;

/// How the server answers a question about the pod. An error ends the connection.
pub(super) type Answer = fn(&mut TcpStream) -> io::Result<()>;

/// The programs of a dial: the search for an agent, the copy, the start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Programs {
    pub(super) find: Program,
    pub(super) write: Program,
    pub(super) start: Program,
    /// `None`: a pod whose container runs.
    pub(super) pod: Option<Answer>,
}

/// A running server. Its threads end with the process.
#[derive(Debug)]
pub(super) struct ApiServer {
    pub(super) port: u16,
    container: Arc<Mutex<Container>>,
}

/// What an exec in the container leads to.
#[derive(Debug, Clone)]
pub(super) enum Container {
    /// The programs of a dial.
    Runs(Programs),
    /// The agent on this socket.
    HasAgent(PathBuf),
}

impl ApiServer {
    pub(super) fn start(container: Container) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let container = Arc::new(Mutex::new(container));
        let shared = container.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                // The bridge may close at any time.
                thread::spawn(move || serve(stream, &shared));
            }
        });
        Self { port, container }
    }

    /// Sets what all later execs lead to.
    pub(super) fn set(&self, container: Container) {
        *self.container.lock().unwrap_or_else(PoisonError::into_inner) = container;
    }
}

/// Answers the requests of one connection.
fn serve(mut stream: TcpStream, container: &Mutex<Container>) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let (mut path, mut key) = (String::new(), String::new());
        let mut first = true;
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end();
            if first {
                path = line.split(' ').nth(1).unwrap_or_default().to_owned();
                first = false;
            } else if line.is_empty() {
                break;
            } else if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("sec-websocket-key")
            {
                key = value.trim().to_owned();
            }
        }
        let container = container.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if path.contains("/exec") {
            let Programs { find, write, start, .. } = match container {
                Container::Runs(programs) => programs,
                Container::HasAgent(socket) => {
                    return WebSocket::relay(stream, &key, PROXY_MAGIC.as_bytes(), &socket);
                }
            };
            let program = if path.contains("podbridge-find") {
                find
            } else if path.contains("podbridge-end") {
                start
            } else {
                write
            };
            return program(&mut WebSocket::accept(stream, &key)?);
        }
        if let Container::Runs(Programs { pod: Some(answer), .. }) = container {
            answer(&mut stream)?;
            continue;
        }
        let body = pod().to_string();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        (&stream).write_all((head + &body).as_bytes())?;
    }
}

/// The pod as the API shows it.
fn pod() -> serde_json::Value {
    let now = "2026-11-30T00:00:00Z";
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web", "namespace": "ns", "uid": "8f7f7f7f-0000-0000-0000-000000000001", "creationTimestamp": now},
        "spec": {"nodeName": "node", "containers": [{"name": "main", "image": "image"}]},
        "status": {
            "phase": "Running", "podIP": own_address(),
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{
                "name": "main", "ready": true, "restartCount": 0, "image": "image", "imageID": "id", "started": true,
                "containerID": "containerd://1", "state": {"running": {"startedAt": now}},
            }],
        },
    })
}
