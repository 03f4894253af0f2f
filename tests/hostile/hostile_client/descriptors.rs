//! Descriptors that are no regular files, have the wrong mode, or change while the bridge uses them.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::UnixStream;

use podbridge_tests::client_protocol::memory_file;
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use serde_json::{Value, json};

use crate::frame::flood::Flood;
use crate::hostile_client::row::{Row, Target};

/// Returns descriptors that are no regular file which may be read and written.
fn bad_descriptors(target: &Target<'_>) -> Vec<(&'static str, OwnedFd)> {
    let fifo = target.dir.join("fifo");
    // An earlier run of this row may have made it.
    let _ = mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0);
    let file = target.dir.join("file");
    std::fs::write(&file, "content").unwrap();
    let path_only = OFlags::PATH.bits().cast_signed();
    let open = |path: &std::path::Path| OwnedFd::from(File::options().read(true).write(true).open(path).unwrap());
    vec![
        ("a FIFO", open(&fifo)),
        ("a device without end", open("/dev/zero".as_ref())),
        ("a full device", open("/dev/full".as_ref())),
        ("a socket", UnixStream::pair().unwrap().0.into()),
        ("a pipe", std::io::pipe().unwrap().0.into()),
        ("a directory", File::open(target.dir).unwrap().into()),
        (
            "a path",
            OpenOptions::new()
                .read(true)
                .custom_flags(path_only)
                .open(&file)
                .unwrap()
                .into(),
        ),
    ]
}

fn ask(target: &Target<'_>, request: &Value, descriptors: &[BorrowedFd<'_>]) -> Value {
    let mut connection = target.connect();
    connection.send_request(request, descriptors).unwrap();
    connection
        .read_result()
        .unwrap_or_else(|error| panic!("no answer to {request}: {error}"))
}

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "descriptors_of_every_type",
        start: |_, target| {
            let requests = [
                json!({"v": 1, "op": "exec", "argv": ["cat"], "stdin": "fd"}),
                json!({"v": 1, "op": "exec", "argv": ["true"], "stdout": "fd"}),
                json!({"v": 1, "op": "put", "path": target.dir.join("put")}),
                json!({"v": 1, "op": "get", "path": target.dir.join("file")}),
            ];
            for (kind, descriptor) in bad_descriptors(target) {
                for request in &requests {
                    let answer = ask(target, request, &[descriptor.as_fd()]);
                    assert_eq!(answer["outcome"], "failed", "{kind}: {request}: {answer}");
                }
            }
            Box::new(())
        },
    },
    Row {
        name: "descriptors_with_the_wrong_mode",
        start: |_, target| {
            let file = target.dir.join("file");
            std::fs::write(&file, "content").unwrap();
            let reads = File::open(&file).unwrap();
            let writes = File::options().write(true).open(&file).unwrap();
            let put = json!({"v": 1, "op": "put", "path": target.dir.join("put")});
            let get = json!({"v": 1, "op": "get", "path": &file});
            assert_eq!(ask(target, &put, &[writes.as_fd()])["outcome"], "failed");
            assert_eq!(ask(target, &get, &[reads.as_fd()])["outcome"], "failed");
            Box::new(())
        },
    },
    Row {
        name: "more_descriptors_than_are_taken",
        start: |_, target| {
            let memory = memory_file(b"content");
            let many = [memory.as_fd(); 64];
            for _ in 0..20 {
                let request = json!({"v": 1, "op": "exec", "argv": ["true"], "stdin": "fd"});
                assert_eq!(ask(target, &request, &many)["outcome"], "exited");
                assert_eq!(ask(target, &json!({"v": 1, "op": "status"}), &many)["outcome"], "ok");
            }
            Box::new(())
        },
    },
    Row {
        name: "descriptors_in_later_frames",
        start: |_, target| {
            let memory = memory_file(b"content");
            let connections: Vec<_> = (0..20)
                .map(|_| {
                    let mut connection =
                        target.request(&json!({"v": 1, "op": "exec", "argv": ["cat"], "stdin": "stream"}));
                    for _ in 0..20 {
                        // A request in the place of input: the bridge closes the connection.
                        let _ = connection.send_request(&json!({}), &[memory.as_fd(); 64]);
                    }
                    connection
                })
                .collect();
            Box::new(connections)
        },
    },
    Row {
        name: "files_that_change_while_they_are_read",
        start: |_, target| {
            let path = target.dir.join("changing");
            std::fs::write(&path, vec![b'x'; 8 << 20]).unwrap();
            let file = File::options().read(true).write(true).open(&path).unwrap();
            let changing = file.try_clone().unwrap();
            let flood = Flood::start(move || {
                changing.set_len(0).unwrap();
                changing.set_len(64 << 20).unwrap();
            });
            for _ in 0..5 {
                // Whatever comes, it ends.
                ask(
                    target,
                    &json!({"v": 1, "op": "put", "path": target.dir.join("put")}),
                    &[file.as_fd()],
                );
            }
            Box::new((flood, file))
        },
    },
];
