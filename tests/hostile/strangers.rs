//! Strangers on the console port of a build's bridge: every process of the executor can connect to it, those of other builds too. `main`
//! runs the cases.

use std::any::Any;
use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use podbridge_tests::build::{Build, Console, LogFile};
use podbridge_tests::client_protocol::ask;
use podbridge_tests::pair::{Pair, eventually};
use serde_json::json;

use crate::frame::control::Control;
use crate::frame::flood::Flood;
use crate::frame::output;
use crate::frame::scene::{self, AGENT_CEILING, Attack, BRIDGE_CEILING, Case, Scene, Setting, run_table};

/// Connections at once.
const MANY: usize = 400;
/// Most connections that have not found a log (console/strangers.rs).
const MOST_STRANGERS: usize = 1024;

/// An attack on a console port.
#[derive(Clone)]
struct Row {
    name: &'static str,
    start: fn(&mut Attack<'_>, u16) -> Box<dyn Any>,
}

impl scene::Row for Row {
    fn name(&self) -> &'static str {
        self.name
    }
}

pub(crate) fn cases() -> Vec<Case> {
    vec![(
        "strangers::console".into(),
        Box::new(|setting| run_table(setting, ROWS, run)),
    )]
}

/// Runs rows one after the other against one bridge of a build.
fn run(setting: &Setting, rows: &mut VecDeque<Row>) -> Vec<String> {
    let mut scene = Scene::begin(setting);
    scene::allow_many_descriptors();
    let (pair, build) = (Pair::start(), Build::default());
    let bridge = build.start_bridge(&pair, "web");
    scene.watch_output(build.log());
    let control = Control::Exec(build.socket());
    // The connection for files, which stays open.
    ask(
        &build.socket(),
        &json!({"v": 1, "op": "exec", "argv": ["tar", "--version"]}),
    )
    .unwrap();
    control.run().unwrap();
    scene.guard("bridge", bridge.child.id(), BRIDGE_CEILING);
    scene.guard("agent", pair.agent(), AGENT_CEILING);
    while let Some(row) = rows.pop_front() {
        scene.begin_row(row.name);
        drop(scene.attack(&control, |attack| (row.start)(attack, bridge.ports[0].port)));
        for fault in console_faults(bridge.ports[0].port) {
            scene.fault(format!("the console: {fault}"));
        }
        if scene.is_spoilt() {
            break;
        }
    }
    scene.verdict()
}

/// Returns what is wrong with the words of a console that has no such log.
fn console_faults(port: u16) -> Vec<String> {
    let mut stream = connect(port, b"v:0\ns:\x1b[31mnowhere\n");
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut words = [0; 64];
    let length = stream.read(&mut words).unwrap_or(0);
    output::faults(&words[..length])
}

fn connect(port: u16, request: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    // A stranger does not wait for a bridge that does not read.
    stream.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
    // The bridge may close the connection at once.
    let _ = stream.write_all(request);
    stream
}

/// Tells whether the bridge has closed a connection. Reads what has come so far.
fn has_ended(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    match std::io::copy(&mut &*stream, &mut std::io::sink()) {
        Ok(_) => true,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

/// Connects many times, each with a request of its own.
fn many(port: u16, request: impl FnMut(usize) -> Vec<u8>) -> Box<dyn Any> {
    let requests = (0..MANY).map(request);
    Box::new(requests.map(|request| connect(port, &request)).collect::<Vec<_>>())
}

const ROWS: &[Row] = &[
    Row {
        name: "silent_connections",
        start: |_, port| many(port, |_| Vec::new()),
    },
    Row {
        name: "half_requests",
        start: |_, port| many(port, |number| b"s:a-log-id"[..number % 10].to_vec()),
    },
    Row {
        name: "requests_of_every_kind",
        start: |attack, port| {
            many(port, |_| {
                let mut request: Vec<u8> = (0..attack.rng.usize(0..2000)).map(|_| attack.rng.u8(..)).collect();
                request.push(b'\n');
                request
            })
        },
    },
    Row {
        name: "guessed_logs",
        start: |attack, port| {
            many(port, |_| {
                format!("s:{:032x}-1-node\n", attack.rng.u128(..)).into_bytes()
            })
        },
    },
    Row {
        name: "searches_that_hold_all_places",
        start: |attack, port| {
            let mut search = || connect(port, format!("s:{:032x}-1-node\n", attack.rng.u128(..)).as_bytes());
            let (log, written) = (LogFile::default(), LogFile::default());
            let mut searches: Vec<_> = (0..MOST_STRANGERS).map(|_| search()).collect();
            let mut zuul = [&log, &written].map(|log| {
                let mut console = Console::connect(port);
                console.send(&format!("s:{}\n", log.id));
                assert_eq!(console.read_line(), "[Zuul] Log not found\n");
                console
            });
            written.append(b"a line\n");
            assert_eq!(zuul[1].read_log_line(), "a line\n");
            searches.extend((0..MOST_STRANGERS / 2).map(|_| search()));
            // The oldest ones have made place for the newest, and for Zuul, whose log begins later.
            eventually("the oldest connections are closed", || {
                searches[..MOST_STRANGERS / 2].iter().all(has_ended)
            });
            log.append(b"a line\n");
            written.append(b"another\n");
            for (console, line) in zuul.iter_mut().zip(["a line\n", "another\n"]) {
                assert_eq!(console.read_log_line(), line);
            }
            assert!(!searches.last().is_some_and(has_ended));
            Box::new((searches, zuul, log, written))
        },
    },
    Row {
        name: "paths_instead_of_ids",
        start: |_, port| {
            let paths = [
                "s:../../etc/passwd\n",
                "s:/etc/passwd\n",
                "s:\0\n",
                "s:.\n",
                "s:..\n",
                "f:../../etc/passwd\n",
            ];
            for path in paths {
                let stream = connect(port, path.as_bytes());
                stream.shutdown(Shutdown::Write).unwrap();
                stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
                let mut answer = Vec::new();
                // What comes until the end, or for a moment.
                let _ = (&stream).take(4096).read_to_end(&mut answer);
                assert!(!answer.windows(5).any(|word| word == b"root:"), "{path:?}");
            }
            Box::new(())
        },
    },
    Row {
        name: "deletions_without_end",
        start: |attack, port| {
            let mut rng = attack.rng.fork();
            Box::new(Flood::start(move || {
                drop(connect(port, format!("f:{:032x}-1-node\n", rng.u128(..)).as_bytes()));
            }))
        },
    },
    Row {
        name: "connections_that_come_and_go",
        start: |_, port| Box::new(Flood::start(move || drop(connect(port, b"v:0\n")))),
    },
];
