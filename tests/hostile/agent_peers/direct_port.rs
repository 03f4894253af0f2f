//! Strangers on the agent's port for direct links: whoever reaches the pod's address can connect to it.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::agent_peers::http2::PREFACE;
use crate::agent_peers::row::{Held, Row};
use crate::frame::flood::Flood;

/// Connections at once.
const MANY: usize = 500;

/// The beginning of a TLS handshake: a record that announces a message of 16 KiB, and the first bytes of a ClientHello.
const HALF_HELLO: &[u8] = &[0x16, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc, 3, 3];

fn connect(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    // A stranger does not wait for an agent that does not read.
    stream.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
    // The agent may close the connection at once.
    let _ = stream.write_all(bytes);
    stream
}

fn many(address: SocketAddr, bytes: impl FnMut(usize) -> Vec<u8>) -> Held {
    let connections = (0..MANY).map(bytes).map(|bytes| connect(address, &bytes));
    Box::new(connections.collect::<Vec<_>>())
}

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "connections_without_handshake",
        start: |_, target| many(target.direct(), |_| Vec::new()),
    },
    Row {
        name: "half_handshakes",
        start: |_, target| {
            many(target.direct(), |number| {
                HALF_HELLO[..number % HALF_HELLO.len()].to_vec()
            })
        },
    },
    Row {
        name: "garbage",
        start: |attack, target| {
            many(target.direct(), |_| {
                (0..attack.rng.usize(0..2000)).map(|_| attack.rng.u8(..)).collect()
            })
        },
    },
    Row {
        name: "http2_without_tls",
        start: |_, target| many(target.direct(), |_| PREFACE.to_vec()),
    },
    Row {
        name: "a_handshake_without_end",
        start: |_, target| {
            let address = target.direct();
            let record = [&[0x16, 3, 1, 0x40, 0][..], &[1; 0x4000]].concat();
            Box::new(Flood::start(move || {
                let mut stream = connect(address, HALF_HELLO);
                for _ in 0..1000 {
                    if stream.write_all(&record).is_err() {
                        break;
                    }
                }
            }))
        },
    },
    Row {
        name: "alerts_without_end",
        start: |_, target| {
            let address = target.direct();
            // Warnings that change nothing.
            let alerts = [0x15, 3, 3, 0, 2, 1, 90].repeat(1000);
            Box::new(Flood::start(move || {
                let mut stream = connect(address, &[]);
                while stream.write_all(&alerts).is_ok() {}
            }))
        },
    },
    Row {
        name: "connections_that_come_and_go",
        start: |_, target| {
            let address = target.direct();
            Box::new(Flood::start(move || drop(connect(address, HALF_HELLO))))
        },
    },
];
