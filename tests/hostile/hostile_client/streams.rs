//! Streams that stand still: input that the command does not read, output that the client does not read.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::Path;

use podbridge_tests::client_protocol::{Connection, STDIN};
use serde_json::json;

use crate::hostile_client::row::{Row, Target};

/// Bytes of stdin that a client may send before they are acknowledged.
const STDIN_WINDOW: usize = 4 << 20;
/// Bytes in one frame.
const FRAME: usize = 256 << 10;
/// Bytes of a file that has nothing but a hole.
const LARGE: u64 = 1 << 40;

/// Sends as much input as is taken within a moment.
fn send_input(mut connection: Connection, length: usize) -> Connection {
    let moment = std::time::Duration::from_millis(5);
    connection.socket().set_write_timeout(Some(moment)).unwrap();
    let data = vec![b'x'; FRAME];
    for _ in 0..length / FRAME {
        // The bridge stops to read when it holds enough.
        if connection.send(STDIN, &data).is_err() {
            break;
        }
    }
    connection
}

/// Asks for a file so many times, and reads no answer.
fn downloads(count: u32, path: &Path, target: &Target<'_>) -> Vec<Connection> {
    let request = json!({"v": 1, "op": "get", "path": path});
    (0..count).map(|_| target.request(&request)).collect()
}

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "input_that_one_command_does_not_read",
        start: |_, target| {
            let request = json!({"v": 1, "op": "exec", "argv": ["sleep", "300"], "stdin": "stream"});
            Box::new(send_input(target.request(&request), STDIN_WINDOW))
        },
    },
    Row {
        name: "output_that_one_client_does_not_read",
        start: |_, target| Box::new(target.request(&json!({"v": 1, "op": "exec", "argv": ["cat", "/dev/zero"]}))),
    },
    Row {
        name: "more_output_than_any_window_that_one_client_does_not_read",
        start: |_, target| {
            let request = json!({"v": 1, "op": "exec", "argv": ["head", "-c", "80000000", "/dev/zero"]});
            Box::new(target.request(&request))
        },
    },
    Row {
        name: "input_that_no_command_reads",
        start: |attack, target| {
            let request = json!({"v": 1, "op": "exec", "argv": ["sleep", "300"], "stdin": "stream"});
            let many = (0..30 * attack.scale).map(|_| send_input(target.request(&request), 2 * STDIN_WINDOW));
            Box::new(many.collect::<Vec<_>>())
        },
    },
    Row {
        name: "downloads_that_no_client_reads",
        start: |attack, target| {
            let path = target.dir.join("full");
            std::fs::write(&path, vec![b'x'; 16 << 20]).unwrap();
            Box::new(downloads(60 * attack.scale, &path, target))
        },
    },
    Row {
        name: "downloads_of_holes_that_no_client_reads",
        start: |attack, target| {
            let path = target.dir.join("large");
            File::create(&path).unwrap().set_len(LARGE).unwrap();
            Box::new(downloads(60 * attack.scale, &path, target))
        },
    },
    Row {
        name: "files_of_holes_that_clients_send_and_receive",
        start: |attack, target| {
            let path = target.dir.join("large");
            let options = File::options().read(true).write(true).create(true).clone();
            let large = options.open(&path).unwrap();
            large.set_len(LARGE).unwrap();
            let connections = (0..30 * attack.scale).flat_map(|number| {
                let copy = target.dir.join(format!("copy-{number}"));
                let received = options.open(target.dir.join("received")).unwrap();
                let put = json!({"v": 1, "op": "put", "path": copy});
                let get = json!({"v": 1, "op": "get", "path": &path});
                [(put, &large), (get, &received)].map(|(request, file)| {
                    let mut connection = target.connect();
                    connection.send_request(&request, &[file.as_fd()]).unwrap();
                    connection
                })
            });
            Box::new(connections.collect::<Vec<_>>())
        },
    },
];
