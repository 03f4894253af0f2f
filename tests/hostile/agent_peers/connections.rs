//! Connections to the agent's socket without number, whose clients never begin HTTP/2, do nothing with it, or come and go.

use std::io::Write as _;
use std::os::unix::net::UnixStream;

use crate::agent_peers::http2::{Http2, PREFACE};
use crate::agent_peers::row::Row;
use crate::frame::flood::Flood;

/// Connections at once, below the limit of descriptors of an ordinary process.
const MANY: usize = 400;

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "silent_connections",
        start: |_, target| {
            let connections = (0..MANY).map(|_| UnixStream::connect(target.socket).unwrap());
            Box::new(connections.collect::<Vec<_>>())
        },
    },
    Row {
        name: "halves_of_the_preface",
        start: |attack, target| {
            let connections = (0..MANY).map(|_| {
                let mut stream = UnixStream::connect(target.socket).unwrap();
                // The agent may close at once.
                let _ = stream.write_all(&PREFACE[..attack.rng.usize(0..PREFACE.len())]);
                stream
            });
            Box::new(connections.collect::<Vec<_>>())
        },
    },
    Row {
        name: "connections_that_say_nothing_more",
        start: |_, target| {
            let connections = (0..MANY).map(|_| Http2::open(target.socket));
            // The agent may have closed some of them.
            Box::new(connections.flatten().collect::<Vec<_>>())
        },
    },
    Row {
        name: "connections_that_come_and_go",
        start: |_, target| {
            let socket = target.socket.to_owned();
            Box::new(Flood::start(move || drop(Http2::open(&socket))))
        },
    },
    Row {
        name: "silent_connections_that_come_and_go",
        start: |_, target| {
            let socket = target.socket.to_owned();
            Box::new(Flood::start(move || drop(UnixStream::connect(&socket))))
        },
    },
];
