//! A client on the agent's socket that breaks HTTP/2, or uses it as nobody should: floods of small frames, streams without number, windows
//! that never open.

use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;

use podbridge_proto::v1::{GetRequest, HelloRequest, OnDisconnect, RunRequest, StartRequest, StdinChunk, StdinMode};

use crate::agent_peers::http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, Http2, INITIAL_WINDOW_SIZE, MAX_PAYLOAD, PING, PREFACE,
    PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE, call_headers, frame, grpc, literal,
};
use crate::agent_peers::row::{Held, Row, Target};
use crate::frame::flood::Flood;

/// Frames that are sent at once.
const BATCH: usize = 100;

const HELLO: &str = "/podbridge.v1.Agent/Hello";
pub(super) const RUN: &str = "/podbridge.v1.Exec/Run";
const START: &str = "/podbridge.v1.Exec/Start";
const WRITE_STDIN: &str = "/podbridge.v1.Exec/WriteStdin";
const GET: &str = "/podbridge.v1.Files/Get";

/// Sends the same bytes again and again; begins anew when the agent ends the connection.
fn flood(target: &Target<'_>, begin: fn(&mut Http2) -> io::Result<()>, bytes: Vec<u8>) -> Held {
    let socket = target.socket.to_owned();
    let mut connection = None;
    Box::new(Flood::start(move || {
        if connection.is_none() {
            // The agent may refuse it at once.
            connection = Http2::open(&socket).ok();
            if let Some(open) = &mut connection
                && begin(open).is_err()
            {
                connection = None;
            }
        }
        if connection.as_mut().is_some_and(|open| open.write(&bytes).is_err()) {
            connection = None;
        }
    }))
}

/// Returns a frame many times.
fn batch(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    frame(kind, flags, stream, payload).repeat(BATCH)
}

fn begin_nothing(_: &mut Http2) -> io::Result<()> {
    Ok(())
}

fn begin_hello(connection: &mut Http2) -> io::Result<()> {
    connection.begin_call(1, HELLO)
}

/// A command that ends with its connection.
pub(super) fn command(argv: &[&'static str], number: usize) -> StartRequest {
    let mut exec_id = fastrand::u128(..).to_be_bytes().to_vec();
    exec_id[0] = number as u8;
    StartRequest {
        exec_id: exec_id.into(),
        digest: vec![7; 32].into(),
        argv: argv.iter().map(|word| (*word).into()).collect(),
        on_disconnect: OnDisconnect::Cancel.into(),
        ..StartRequest::default()
    }
}

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "random_bytes",
        start: |attack, target| {
            let connections = (0..200 * attack.scale).map(|_| {
                let mut stream = UnixStream::connect(target.socket).unwrap();
                let bytes: Vec<u8> = (0..attack.rng.usize(1..300)).map(|_| attack.rng.u8(..)).collect();
                let preface = if attack.rng.bool() { PREFACE } else { &[] };
                let _ = stream.write_all(&[preface, &bytes].concat());
                stream
            });
            Box::new(connections.collect::<Vec<_>>())
        },
    },
    Row {
        name: "settings_without_end",
        start: |_, target| flood(target, begin_nothing, batch(SETTINGS, 0, 0, &[])),
    },
    Row {
        name: "pings_without_end",
        start: |_, target| flood(target, begin_nothing, batch(PING, 0, 0, &[7; 8])),
    },
    Row {
        name: "priorities_without_end",
        start: |_, target| flood(target, begin_nothing, batch(PRIORITY, 0, 3, &[0, 0, 0, 1, 9])),
    },
    Row {
        name: "frames_of_no_known_type_without_end",
        start: |_, target| flood(target, begin_nothing, batch(0xee, 0xff, 9, &[7; 99])),
    },
    Row {
        name: "data_without_content_without_end",
        start: |_, target| flood(target, begin_hello, batch(DATA, 0, 1, &[])),
    },
    Row {
        name: "windows_that_open_by_one_byte_without_end",
        start: |_, target| flood(target, begin_hello, batch(WINDOW_UPDATE, 0, 1, &1u32.to_be_bytes())),
    },
    Row {
        name: "a_window_beyond_the_largest",
        start: |_, target| {
            flood(
                target,
                begin_hello,
                batch(WINDOW_UPDATE, 0, 0, &(u32::MAX >> 1).to_be_bytes()),
            )
        },
    },
    Row {
        name: "headers_that_never_end",
        start: |_, target| {
            let begin = |connection: &mut Http2| connection.frame(HEADERS, 0, 1, &call_headers(HELLO));
            let more = literal(0, b"x", &[b'y'; MAX_PAYLOAD - 10]);
            flood(target, begin, frame(CONTINUATION, 0, 1, &more))
        },
    },
    Row {
        name: "headers_that_go_on_with_nothing",
        start: |_, target| {
            let begin = |connection: &mut Http2| connection.frame(HEADERS, 0, 1, &call_headers(HELLO));
            flood(target, begin, batch(CONTINUATION, 0, 1, &[]))
        },
    },
    Row {
        name: "a_header_that_is_repeated_by_its_number",
        start: |_, target| {
            let socket = target.socket.to_owned();
            Box::new(Flood::start(move || {
                let Ok(mut connection) = Http2::open(&socket) else {
                    return;
                };
                // The agent keeps the header; each byte after it is all of it again.
                let mut block = [call_headers(HELLO), literal(0x40, b"x", &[b'y'; 4000])].concat();
                block.resize(MAX_PAYLOAD, 0xbe);
                for stream in 0..50 {
                    let sent = connection.frame(HEADERS, END_HEADERS | END_STREAM, 2 * stream + 1, &block);
                    if sent.is_err() {
                        break;
                    }
                }
            }))
        },
    },
    Row {
        name: "streams_that_are_reset_at_once",
        start: |_, target| {
            let socket = target.socket.to_owned();
            let headers = call_headers(RUN);
            Box::new(Flood::start(move || {
                let Ok(mut connection) = Http2::open(&socket) else {
                    return;
                };
                connection.drain();
                for stream in (1..200_000).step_by(2) {
                    let open = frame(HEADERS, END_HEADERS, stream, &headers);
                    let reset = frame(RST_STREAM, 0, stream, &8u32.to_be_bytes());
                    if connection.write(&[open, reset].concat()).is_err() {
                        break;
                    }
                }
            }))
        },
    },
    Row {
        name: "streams_without_end",
        start: |_, target| {
            let mut connection = Http2::open(target.socket).unwrap();
            connection.drain();
            for stream in (1..100_000).step_by(2) {
                if connection.begin_call(stream, RUN).is_err() {
                    break;
                }
            }
            Box::new(connection)
        },
    },
    Row {
        name: "calls_without_end_and_no_answer_is_read",
        start: |_, target| {
            let socket = target.socket.to_owned();
            Box::new(Flood::start(move || {
                let Ok(mut connection) = Http2::open(&socket) else {
                    return;
                };
                for stream in (1..20_000).step_by(2) {
                    if connection.call(stream, HELLO, &HelloRequest::default()).is_err() {
                        break;
                    }
                }
            }))
        },
    },
    Row {
        name: "messages_of_four_gibibytes",
        start: |_, target| {
            let connections = (0..50).map(|_| {
                let mut connection = Http2::open(target.socket).unwrap();
                connection.drain();
                for (stream, flag) in [(1, 0), (3, 1), (5, 0xff)] {
                    let _ = connection.begin_call(stream, RUN);
                    let _ = connection.frame(DATA, 0, stream, &[flag, 0xff, 0xff, 0xff, 0xff, 1]);
                    let _ = connection.frame(DATA, 0, stream, &[1; MAX_PAYLOAD]);
                }
                connection
            });
            Box::new(connections.collect::<Vec<_>>())
        },
    },
    Row {
        name: "files_into_a_window_of_nothing",
        start: |_, target| {
            let file = target.socket.with_file_name("large");
            std::fs::File::create(&file).unwrap().set_len(1 << 30).unwrap();
            let connections = (0..20).map(|_| {
                let mut connection = Http2::open_with(target.socket, &[(INITIAL_WINDOW_SIZE, 0)]).unwrap();
                connection.drain();
                for number in 0..10 {
                    let get = GetRequest {
                        path: file.as_os_str().as_encoded_bytes().to_vec().into(),
                        ..GetRequest::default()
                    };
                    connection.call(2 * number + 1, GET, &get).unwrap();
                }
                connection
            });
            Box::new(connections.collect::<Vec<_>>())
        },
    },
    Row {
        name: "input_beyond_every_window",
        start: |_, target| {
            let mut connection = Http2::open(target.socket).unwrap();
            connection.drain();
            for number in 0..20 {
                let start = StartRequest {
                    stdin_mode: StdinMode::Stream.into(),
                    ..command(&["sleep", "300"], number)
                };
                let exec_id = start.exec_id.clone();
                let (first, second) = (4 * number as u32 + 1, 4 * number as u32 + 3);
                let run = RunRequest {
                    start: Some(start),
                    ..RunRequest::default()
                };
                // The agent may have ended the connection.
                let _ = connection.call(first, RUN, &run);
                let _ = connection.begin_call(second, WRITE_STDIN);
                let mut offset = 0;
                // More than the windows of the stream and of the connection: the agent ends what does not keep to them.
                for _ in 0..40 {
                    let chunk = StdinChunk {
                        exec_id: exec_id.clone(),
                        offset,
                        data: vec![7; 100 << 10].into(),
                        eof: false,
                    };
                    offset += chunk.data.len() as u64;
                    for part in grpc(&chunk).chunks(MAX_PAYLOAD) {
                        let _ = connection.frame(DATA, 0, second, part);
                    }
                }
            }
            Box::new(connection)
        },
    },
    Row {
        name: "calls_of_what_does_not_exist",
        start: |attack, target| {
            let mut connection = Http2::open(target.socket).unwrap();
            connection.drain();
            for stream in (1..2000).step_by(2) {
                let path: String = (0..attack.rng.usize(0..200)).map(|_| attack.rng.char(..)).collect();
                let path = attack.rng.choice([START, "/", "", "*", &path]).unwrap();
                // The agent may end the connection.
                let _ = connection.call(stream, path, &HelloRequest::default());
            }
            Box::new(connection)
        },
    },
];
