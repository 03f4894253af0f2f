//! Lies about the way to a direct link: an agent in the false pod names ports and keys that are none, or those of somebody else. The
//! bridge keeps the link that it has. `mod` runs the table.

use std::collections::VecDeque;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use podbridge_proto::v1::EnrollResponse;
use podbridge_tests::client_protocol::ask;
use podbridge_tests::own_address::own_address;
use podbridge_tests::pair::Pair;
use serde_json::json;
use tonic::Code;

use crate::false_pod::api_server::{ApiServer, Container};
use crate::false_pod::row::start_bridge;
use crate::frame::control::Control;
use crate::frame::scene::{self, BRIDGE_CEILING, Scene, Setting};
use crate::lying_agent::answer::{Answer, Messages};
use crate::lying_agent::server::{Lie, LyingAgent};

/// What a pod says to drive a terminal, and to forge a line of its own.
const ESCAPES: &str = "\u{1b}]0;owned\u{7}\u{1b}[31m\r\npodbridge: all is well";
/// Beginning of each key for Ed25519 (RFC 8410).
const KEY: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

#[derive(Clone)]
pub(super) struct Row {
    name: &'static str,
    answer: Answer<EnrollResponse>,
}

impl scene::Row for Row {
    fn name(&self) -> &'static str {
        self.name
    }
}

/// An answer with this port, and a key of this length.
fn enrolled(port: u32, key: usize) -> Messages<EnrollResponse> {
    let mut agent_key = KEY.to_vec();
    agent_key.resize(key, 7);
    let answer = EnrollResponse {
        agent_key: agent_key.into(),
        port,
    };
    Box::new([answer].into_iter())
}

/// Returns the port of somebody who does this with the first connection, and then listens no more.
fn stranger(act: fn(TcpStream)) -> u32 {
    let listener = TcpListener::bind((own_address(), 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        if let Ok((stream, _)) = listener.accept() {
            act(stream);
        }
    });
    port.into()
}

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "enrolment_never_answers",
        answer: Answer::Never,
    },
    Row {
        name: "enrolment_fails_with_escapes",
        answer: Answer::Fails(Code::Internal, ESCAPES),
    },
    Row {
        name: "port_0",
        answer: Answer::Closes(|_| enrolled(0, 44)),
    },
    Row {
        name: "port_of_a_service",
        answer: Answer::Closes(|_| enrolled(80, 44)),
    },
    Row {
        name: "port_that_is_cut_to_one_of_a_service",
        answer: Answer::Closes(|_| enrolled((1 << 16) + 80, 44)),
    },
    Row {
        name: "port_of_32_bits",
        answer: Answer::Closes(|_| enrolled(u32::MAX, 44)),
    },
    Row {
        name: "no_key",
        answer: Answer::Closes(|_| enrolled(40_000, 0)),
    },
    Row {
        name: "a_key_that_is_too_short",
        answer: Answer::Closes(|_| enrolled(40_000, 43)),
    },
    Row {
        name: "a_key_that_is_too_long",
        answer: Answer::Closes(|_| enrolled(40_000, 45)),
    },
    Row {
        name: "a_key_of_a_mebibyte",
        answer: Answer::Closes(|_| enrolled(40_000, 1 << 20)),
    },
    Row {
        name: "nobody_listens",
        answer: Answer::Closes(|_| enrolled(stranger(drop), 44)),
    },
    Row {
        name: "somebody_is_silent",
        answer: Answer::Closes(|_| {
            let silent = |stream: TcpStream| {
                // Until the bridge gives up.
                let _ = std::io::copy(&mut &stream, &mut std::io::sink());
            };
            enrolled(stranger(silent), 44)
        }),
    },
    Row {
        name: "somebody_talks_without_end",
        answer: Answer::Closes(|_| {
            let talks = |mut stream: TcpStream| {
                // Records of a TLS handshake.
                let record = [&[0x16, 3, 3, 0x40, 0][..], &[2; 0x4000]].concat();
                while stream.write_all(&record).is_ok() {}
            };
            enrolled(stranger(talks), 44)
        }),
    },
];

/// Runs rows one after the other against one bridge, whose link leads through the API server.
pub(super) fn run(setting: &Setting, rows: &mut VecDeque<Row>) -> Vec<String> {
    let mut scene = Scene::begin_beside_others(setting);
    let pair = Pair::without_agent();
    let agent = LyingAgent::start(pair.agent_socket(), setting.seed);
    let server = ApiServer::start(Container::HasAgent(pair.agent_socket().to_owned()));
    let socket = start_bridge(&pair, &server);
    scene.watch_output(socket.with_extension("log"));
    let control = Control::Exec(socket.clone());
    // The connection for files, which stays open.
    ask(&socket, &json!({"v": 1, "op": "exec", "argv": ["tar"]})).unwrap();
    control.run().unwrap();
    let [bridge] = pair.bridges()[..] else {
        panic!("not one bridge")
    };
    scene.guard("bridge", bridge, BRIDGE_CEILING);
    while let Some(row) = rows.pop_front() {
        scene.begin_row(row.name);
        agent.lie(Some(Lie::Enroll(row.answer)));
        let relinked = ask(&socket, &json!({"v": 1, "op": "relink"})).unwrap();
        scene.expect(relinked["outcome"] == "ok", || format!("no new link: {relinked}"));
        scene.attack_for(Duration::from_millis(300), &control, |_| ());
        let status = ask(&socket, &json!({"v": 1, "op": "status"})).unwrap();
        let links = status["links"].as_array().cloned().unwrap_or_default();
        let is_direct = links.iter().any(|link| link["link"] == "direct");
        scene.expect(!links.is_empty() && !is_direct, || format!("the links are {links:?}"));
        if scene.is_spoilt() {
            break;
        }
    }
    agent.lie(None);
    scene.verdict()
}
