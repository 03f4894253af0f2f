//! Many connections: silent ones, half requests, and ones that come and go.

use std::io::Write as _;
use std::os::unix::net::UnixStream;

use podbridge_tests::client_protocol::{Connection, REQUEST, STDOUT, frame};
use serde_json::json;

use crate::frame::flood::Flood;
use crate::hostile_client::row::{Row, Target};

/// Connections at once, below the limit of descriptors of an ordinary process.
const MANY: usize = 400;

/// Connects, sends a request and goes, again and again.
fn come_and_go(target: &Target<'_>, request: &serde_json::Value) -> Flood {
    let socket = target.socket.to_owned();
    let request = frame(REQUEST, request.to_string().as_bytes());
    Flood::start(move || {
        if let Ok(mut connection) = UnixStream::connect(&socket) {
            // The bridge may close it at once.
            let _ = connection.write_all(&request);
        }
    })
}

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "silent_connections",
        start: |_, target| Box::new((0..MANY).map(|_| target.connect()).collect::<Vec<_>>()),
    },
    Row {
        name: "half_headers",
        start: |attack, target| {
            let connections = (0..MANY).map(|_| {
                let mut connection = target.connect();
                let header = frame(REQUEST, &[b' '; 1 << 16]);
                let _ = connection.socket().write_all(&header[..attack.rng.usize(0..5)]);
                connection
            });
            Box::new(connections.collect::<Vec<Connection>>())
        },
    },
    Row {
        name: "requests_that_are_never_whole",
        start: |attack, target| {
            let connections = (0..MANY).map(|_| {
                let mut connection = target.connect();
                // As much as may come before the length is known to be too much.
                let header = (1u32 << 20).to_be_bytes();
                let part = vec![b' '; attack.rng.usize(0..64 << 10)];
                let _ = connection
                    .socket()
                    .write_all(&[&header[..], &[REQUEST], &part].concat());
                connection
            });
            Box::new(connections.collect::<Vec<Connection>>())
        },
    },
    Row {
        name: "connections_that_come_and_go",
        start: |_, target| {
            let socket = target.socket.to_owned();
            Box::new(Flood::start(move || drop(UnixStream::connect(&socket))))
        },
    },
    Row {
        name: "requests_that_nobody_waits_for",
        start: |_, target| Box::new(come_and_go(target, &json!({"v": 1, "op": "status"}))),
    },
    Row {
        name: "commands_that_nobody_waits_for",
        start: |_, target| {
            let sleep = json!({"v": 1, "op": "exec", "argv": ["sleep", "300"]});
            Box::new(come_and_go(target, &sleep))
        },
    },
    Row {
        name: "more_silent_connections_than_are_served",
        start: |_, target| Box::new((0..4 * MANY).map(|_| target.connect()).collect::<Vec<_>>()),
    },
    Row {
        name: "commands_that_are_cancelled_at_once",
        start: |_, target| {
            let sleep = json!({"v": 1, "op": "exec", "argv": ["sleep", "300"]});
            for _ in 0..50 {
                drop(target.request(&sleep));
            }
            Box::new(())
        },
    },
    Row {
        name: "clients_that_are_killed_at_once",
        start: |_, target| {
            // Each command has a tree of its own, which ends late.
            let line = "trap 'sleep 0.3; exit' TERM; echo; sleep 300 & wait";
            let command = json!({"v": 1, "op": "exec", "argv": ["sh", "-c", line]});
            let mut running: Vec<Connection> = (0..200).map(|_| target.request(&command)).collect();
            for connection in &mut running {
                while connection.read_frame().is_ok_and(|(kind, _)| kind != STDOUT) {}
            }
            drop(running);
            Box::new(())
        },
    },
    Row {
        name: "a_request_byte_by_byte",
        start: |_, target| {
            let mut connection = target.connect();
            let request = frame(REQUEST, json!({"v": 1, "op": "status"}).to_string().as_bytes());
            for byte in request {
                connection.socket().write_all(&[byte]).unwrap();
            }
            assert_eq!(connection.read_result().unwrap()["outcome"], "ok");
            Box::new(connection)
        },
    },
];
