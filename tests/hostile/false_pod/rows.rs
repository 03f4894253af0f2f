//! The table of what runs in a false pod.

use std::io::{self, Write as _};
use std::net::TcpStream;

use crate::false_pod::api_server::{Answer, Program, Programs};
use crate::false_pod::row::Row;

/// What a pod says to drive a terminal, and to forge a line of its own.
const ESCAPES: &str = "\u{1b}]0;owned\u{7}\u{1b}[31m\u{9b}2J\r\u{0}\u{7f}\npodbridge: all is well";

const SUCCESS: &str = r#"{"metadata":{},"status":"Success"}"#;
const FAILURE: &str =
    r#"{"metadata":{},"status":"Failure","message":"exit","details":{"causes":[{"reason":"ExitCode","message":"1"}]}}"#;
const REPORT: &[u8] = b"podbridge-find/1\nmachine x86_64\nbase /tmp\nplace /tmp\nsocket /tmp\n";
const NO_DIRECTORY: &[u8] = b"podbridge-find/1\nmachine x86_64\nrefused /tmp: no\n";

/// The search finds a directory, so that the next step is reached.
const FINDS: Program = |socket| {
    socket.stdout(REPORT)?;
    socket.end(SUCCESS)
};
const SUCCEEDS: Program = |socket| socket.end(SUCCESS);
const WAITS: Program = |socket| socket.wait();

const fn find(name: &'static str, find: Program) -> Row {
    let programs = Programs {
        find,
        write: SUCCEEDS,
        start: WAITS,
        pod: None,
    };
    Row { name, programs }
}

const fn start(name: &'static str, start: Program) -> Row {
    let programs = Programs {
        find: FINDS,
        write: SUCCEEDS,
        start,
        pod: None,
    };
    Row { name, programs }
}

const fn write(name: &'static str, write: Program) -> Row {
    let programs = Programs {
        find: FINDS,
        write,
        start: WAITS,
        pod: None,
    };
    Row { name, programs }
}

const fn pod(name: &'static str, answer: Answer) -> Row {
    let programs = Programs {
        find: FINDS,
        write: SUCCEEDS,
        start: WAITS,
        pod: Some(answer),
    };
    Row { name, programs }
}

/// Sends a body without end, or with a length that is promised.
fn without_end(stream: &mut TcpStream, status: &str) -> io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        1u64 << 40
    )?;
    loop {
        stream.write_all(&[b' '; 60_000])?;
    }
}

pub(super) const ROWS: &[Row] = &[
    pod("a_pod_without_end", |stream| without_end(stream, "200 OK")),
    pod("a_refusal_without_end", |stream| without_end(stream, "403 Forbidden")),
    pod("an_answer_that_is_no_pod", |stream| {
        let body = format!("{{\"kind\": \"Pod\", \"spec\": \"{}\"}}", "x".repeat(4 << 20));
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }),
    find("find_is_silent", WAITS),
    find("find_ends_at_once", SUCCEEDS),
    find("find_closes_without_status", |socket| socket.close(1006)),
    find("find_says_something_else", |socket| {
        socket.stdout(ESCAPES.as_bytes())?;
        socket.stderr(ESCAPES.as_bytes())?;
        socket.end(FAILURE)
    }),
    find("find_says_half_of_the_magic_line", |socket| {
        socket.stdout(b"podbridge-pro")?;
        socket.wait()
    }),
    find("find_says_a_longer_magic_line", |socket| {
        socket.stdout(b"podbridge-proxy/1000\n")?;
        socket.end(FAILURE)
    }),
    find("report_without_end", |socket| {
        socket.stdout(b"podbridge-find/1\n")?;
        loop {
            socket.stdout(&b"refused x\n".repeat(6000))?;
        }
    }),
    find("report_with_escapes", |socket| {
        socket.stdout(b"podbridge-find/1\n")?;
        socket.stdout(format!("refused {}\n", ESCAPES.replace('\n', " ")).as_bytes())?;
        socket.end(SUCCESS)
    }),
    find("report_of_another_machine", |socket| {
        socket.stdout(format!("podbridge-find/1\nmachine {}\n", ESCAPES.replace('\n', " ")).as_bytes())?;
        socket.end(SUCCESS)
    }),
    find("report_without_directory", |socket| {
        socket.stdout(NO_DIRECTORY)?;
        socket.end(SUCCESS)
    }),
    find("stderr_without_end", |socket| {
        loop {
            socket.stderr(&[b'x'; 60_000])?;
        }
    }),
    find("messages_of_text", |socket| {
        loop {
            socket.text(&[b'x'; 60_000])?;
        }
    }),
    find("a_message_of_a_gibibyte", |socket| {
        socket.header(0x82, 1 << 30)?;
        loop {
            socket.text(&[1; 60_000])?;
        }
    }),
    find("a_message_in_fragments_without_end", |socket| {
        socket.frame(0x02, &[1])?;
        loop {
            socket.frame(0x00, &[b'x'; 60_000])?;
        }
    }),
    find("frames_that_are_no_websocket", |socket| {
        socket.frame(0xff, &[0xff; 100])?;
        socket.wait()
    }),
    find("a_status_with_escapes", |socket| {
        let status = serde_json::json!({"status": "Failure", "message": ESCAPES, "details": {"causes": []}});
        socket.end(&status.to_string())
    }),
    find("a_status_that_is_no_json", |socket| socket.end(ESCAPES)),
    write("write_is_silent", WAITS),
    write("write_finds_no_space_and_the_search_invents_directories", |socket| {
        socket.end(FAILURE)
    }),
    write("output_of_write_without_end", |socket| {
        loop {
            socket.stdout(&[b'x'; 60_000])?;
        }
    }),
    start("start_is_silent", WAITS),
    start("start_reads_nothing_back", SUCCEEDS),
    start("start_reads_back_something_else", |socket| {
        socket.stdout(b"podbridge-end/1\n")?;
        socket.end(FAILURE)
    }),
    start("start_reads_back_without_end", |socket| {
        loop {
            socket.stdout(&[b'x'; 60_000])?;
        }
    }),
];
