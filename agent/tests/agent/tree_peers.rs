//! Tree copies against a hostile other side: `podbridge-agent tree` uses little memory, whatever the other side sends or leaves unread. The
//! client's side of `podbridge sync` is the same code.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use podbridge_proto::v1::tree_record::Record;
use podbridge_proto::v1::{
    TreeAnswer, TreeAttribute, TreeEntry, TreeKept, TreeOpen, TreeOwner, TreeProblem, TreeRecord, TreeRoot, TreeSent,
};
use podbridge_tree::{MessageReader, MessageWriter, PROTOCOL_VERSION};

use crate::harness::AGENT;

/// Runs one side with 64 MiB for data. More memory makes it abort.
const LIMITED: &str = "ulimit -d 65536 && exec \"$0\" tree";
const FILE: u32 = 0o100_644;
const DIRECTORY: u32 = 0o040_755;

/// One side of a copy, as a process.
struct Side {
    process: Child,
    input: Option<ChildStdin>,
    output: Option<ChildStdout>,
}

impl Side {
    fn start(open: &TreeOpen) -> Self {
        let mut process = Command::new("sh")
            .args(["-c", LIMITED, AGENT])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (mut input, output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
        MessageWriter::new(&mut input).send(open).unwrap();
        Self {
            process,
            input: Some(input),
            output: Some(output),
        }
    }

    /// Returns the signal that ended the process; `None`: it ended by itself.
    fn signal_at_end(&mut self) -> Option<i32> {
        self.process.wait().unwrap().signal()
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        let _ = self.process.kill();
        self.process.wait().unwrap();
    }
}

fn open(root: &Path) -> TreeOpen {
    TreeOpen {
        version: PROTOCOL_VERSION,
        root: root.as_os_str().as_bytes().to_vec().into(),
        // No file has to be made: what counts is what is kept in memory.
        dry_run: true,
        delete: true,
        ..TreeOpen::default()
    }
}

fn sent(records: impl Iterator<Item = Record>) -> TreeSent {
    TreeSent {
        records: records.map(|record| TreeRecord { record: Some(record) }).collect(),
        ..TreeSent::default()
    }
}

fn entry(directory: u64, name: &str, mode: u32) -> TreeEntry {
    TreeEntry {
        directory,
        name: name.as_bytes().to_vec().into(),
        mode,
        ..TreeEntry::default()
    }
}

fn root() -> TreeSent {
    let directory = Some(entry(0, "", DIRECTORY));
    sent([Record::Root(TreeRoot { directory })].into_iter())
}

/// Puts the length before a message, which may be one that no type can express.
fn framed(message: &[u8]) -> Vec<u8> {
    let length = message.len();
    let prefix = [length as u8 | 0x80, (length >> 7) as u8 | 0x80, (length >> 14) as u8];
    [&prefix[..], message].concat()
}

/// Returns a field of bytes.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let length = bytes.len();
    let prefix = [
        number << 3 | 2,
        length as u8 | 0x80,
        (length >> 7) as u8 | 0x80,
        (length >> 14) as u8,
    ];
    [&prefix[..], bytes].concat()
}

/// Returns the encoded messages of one row of the table: 100 thousand to some million things that a receiver might keep.
fn storm(kind: &str) -> Box<dyn Iterator<Item = Vec<u8>> + Send> {
    let encoded = |message: TreeSent| {
        let mut bytes = Vec::new();
        MessageWriter::new(&mut bytes).send(&message).unwrap();
        bytes
    };
    let numbers = |count: u64| (0..150_u64).map(move |message| message * count..(message + 1) * count);
    let of_records = move |count: u64, record: fn(u64) -> Record| {
        Box::new(numbers(count).map(move |numbers| encoded(sent(numbers.map(record)))))
    };
    match kind {
        "empty records" => Box::new((0..20).map(|_| framed(&[0x0a, 0].repeat(500_000)))),
        "empty attributes" => Box::new((0..20).map(|_| {
            let entry = [
                &[0x12, 1, b'f', 0x18][..],
                &[0xa4, 0x83, 0x02],
                &[0x6a, 0].repeat(500_000),
            ]
            .concat();
            framed(&field(1, &field(3, &entry)))
        })),
        "kept names" => of_records(2000, |number| {
            Record::Kept(TreeKept {
                directory: 0,
                name: format!("{number:0>255}").into(),
            })
        }),
        "names of files" => of_records(2000, |number| {
            Record::Entry(entry(0, &format!("{number:0>255}"), 0o140_644))
        }),
        "owners" => of_records(20_000, |number| {
            Record::Owner(TreeOwner {
                group: number % 2 == 0,
                id: number as u32,
                name: b"root".to_vec().into(),
            })
        }),
        "problems" => of_records(10_000, |number| {
            Record::Problem(TreeProblem {
                path: b"x".to_vec().into(),
                what: format!("{number:0>60}"),
                warning: true,
            })
        }),
        "directories without an end" => of_records(1000, |number| {
            Record::Entry(entry(
                if number < 4000 { number } else { 0 },
                &format!("{number:0>200}"),
                DIRECTORY,
            ))
        }),
        "names of many directories" => of_records(2000, |number| {
            let in_directory = number % 2 == 1;
            let directory = if in_directory { number } else { 0 };
            let mode = if in_directory { 0o140_644 } else { DIRECTORY };
            Record::Entry(entry(directory, &format!("{number:0>200}"), mode))
        }),
        "files with several names" => of_records(2000, |number| {
            Record::Entry(TreeEntry {
                has_links: true,
                ..entry(0, &format!("{number:0>200}"), FILE)
            })
        }),
        "extended attributes" => of_records(2, |number| {
            let value = vec![b'x'; 250_000].into();
            let name = b"user.x".to_vec().into();
            Record::Entry(TreeEntry {
                attributes: vec![TreeAttribute { name, value }],
                ..entry(0, &number.to_string(), DIRECTORY)
            })
        }),
        other => panic!("{other}"),
    }
}

#[test]
fn a_receiver_keeps_little_of_what_it_is_told() {
    for kind in [
        "empty records",
        "empty attributes",
        "kept names",
        "names of files",
        "owners",
        "problems",
        "directories without an end",
        "names of many directories",
        "files with several names",
        "extended attributes",
    ] {
        let directory = tempfile::tempdir().unwrap();
        let mut side = Side::start(&open(&directory.path().join("to")));
        let mut input = side.input.take().unwrap();
        let writing = std::thread::spawn(move || {
            MessageWriter::new(&mut input).send(&root()).unwrap();
            for message in storm(kind) {
                // The receiver may end.
                if input.write_all(&message).is_err() {
                    break;
                }
            }
            input
        });
        // The answers are read, so that the receiver goes on.
        let mut output = MessageReader::new(side.output.take().unwrap());
        let reading = std::thread::spawn(move || {
            let mut last = TreeAnswer::default();
            while let Ok(answer) = output.receive::<TreeAnswer>() {
                last = answer;
            }
            last
        });
        let input = writing.join().unwrap();
        drop(input);
        let last = reading.join().unwrap();
        assert_eq!(side.signal_at_end(), None, "{kind}: {}", last.fatal);
    }
}

/// The other side requests a content and reads nothing of it, while it sends answers.
#[test]
fn a_sender_keeps_no_answers_while_nobody_reads() {
    let problem = |what: &str| TreeAnswer {
        problems: vec![
            TreeProblem {
                what: what.into(),
                ..TreeProblem::default()
            };
            1000
        ],
        ..TreeAnswer::default()
    };
    for (kind, answer) in [
        ("problems", {
            let mut bytes = Vec::new();
            MessageWriter::new(&mut bytes).send(&problem(&"x".repeat(900))).unwrap();
            bytes
        }),
        ("empty problems", framed(&[0x22, 0].repeat(100_000))),
        ("empty changes", framed(&[0x1a, 0].repeat(100_000))),
        ("the same again", framed(&[0x08, 1].repeat(100_000))),
    ] {
        let directory = tempfile::tempdir().unwrap();
        let mut content = vec![0; 64 << 20];
        File::open("/dev/urandom")
            .unwrap()
            .read_exact(&mut content[..8 << 20])
            .unwrap();
        for copy in 1..8 {
            content.copy_within(..8 << 20, copy * (8 << 20));
        }
        std::fs::write(directory.path().join("f"), content).unwrap();
        let mut side = Side::start(&TreeOpen {
            agent_sends: true,
            dry_run: false,
            ..open(directory.path())
        });
        let mut input = side.input.take().unwrap();
        let wanted = TreeAnswer {
            wanted: vec![1],
            ..TreeAnswer::default()
        };
        // The file was announced when its entry can be read.
        let mut begin = [0];
        MessageWriter::new(&mut input).send(&TreeAnswer::default()).unwrap();
        side.output.as_mut().unwrap().read_exact(&mut begin).unwrap();
        MessageWriter::new(&mut input).send(&wanted).unwrap();
        let (done, written) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for _ in 0..40 {
                if input.write_all(&answer).is_err() {
                    break;
                }
            }
            let _ = done.send(input);
        });
        // All was taken, or the sender waits for its reader and takes no more.
        let input = written.recv_timeout(Duration::from_secs(60));
        assert!(input.is_ok(), "{kind}: the answers are not taken");
        assert!(
            side.process.try_wait().unwrap().is_none(),
            "{kind}: the sender has ended"
        );
    }
}
