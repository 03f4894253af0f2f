//! Peers that break the protocol, and a third process that changes the tree during a copy: nothing outside of the root is touched, and
//! no side hangs.

use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use podbridge_proto::v1::tree_record::Record;
use podbridge_proto::v1::{
    TreeAnswer, TreeDirectoryEnd, TreeEntry, TreeOpen, TreePart, TreePartEnd, TreeRecord, TreeRoot, TreeSent,
    TreeSummary,
};
use podbridge_tree::{Error, MessageReader, MessageWriter, Temporaries};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::harness::{Direction, assert_equal, copy, names, options, serve, snapshot};

const ROUNDS: usize = 20;
const REGULAR: u32 = 0o100_644;
const DIRECTORY: u32 = 0o040_755;
const LINK: u32 = 0o120_777;

fn entry(directory: u64, name: &[u8], mode: u32) -> TreeEntry {
    TreeEntry {
        directory,
        name: name.to_vec().into(),
        mode,
        ..TreeEntry::default()
    }
}

fn root() -> Record {
    Record::Root(TreeRoot {
        directory: Some(entry(0, b"", DIRECTORY)),
    })
}

fn sent(records: Vec<Record>) -> TreeSent {
    let records = records.into_iter().map(|record| TreeRecord { record: Some(record) });
    TreeSent {
        records: records.collect(),
        ..TreeSent::default()
    }
}

/// Sends a receiver these records and the end of the stream. Returns its result and its last answer.
fn receive(to: &Path, records: Vec<Record>) -> (Result<TreeSummary, Error>, TreeAnswer) {
    receive_all(to, vec![sent(records)])
}

fn receive_all(to: &Path, messages: Vec<TreeSent>) -> (Result<TreeSummary, Error>, TreeAnswer) {
    let (caller_end, server_end) = UnixStream::pair().unwrap();
    let server = thread::spawn(move || {
        podbridge_tree::serve(server_end.try_clone().unwrap(), server_end, &Temporaries::default())
    });
    let mut output = MessageWriter::new(caller_end.try_clone().unwrap());
    let mut input = MessageReader::new(caller_end.try_clone().unwrap());
    let answers = thread::spawn(move || {
        let mut last = TreeAnswer::default();
        while let Ok(answer) = input.receive() {
            last = answer;
        }
        last
    });
    let open = TreeOpen {
        root: to.as_os_str().as_bytes().to_vec().into(),
        delete: true,
        ..options()
    };
    output.send(&open).unwrap();
    for message in messages {
        // The receiver may have ended before.
        if output.send(&message).is_err() {
            break;
        }
    }
    let _ = caller_end.shutdown(std::net::Shutdown::Write);
    (server.join().unwrap(), answers.join().unwrap())
}

#[test]
fn names_that_lead_out_of_the_root_are_refused() {
    let long = [b'x'; 256];
    let bad: [&[u8]; 8] = [b"..", b".", b"", b"/abs", b"a/b", b"../x", b"nul\0", &long];
    for name in bad {
        for mode in [REGULAR, DIRECTORY, LINK] {
            let dir = tempfile::tempdir().unwrap();
            let to = dir.path().join("to");
            let mut bad = entry(0, name, mode);
            bad.target = b"/".to_vec().into();
            let (result, answer) = receive(&to, vec![root(), Record::Entry(bad)]);
            assert!(matches!(result, Err(Error::Protocol(_))), "{name:?}: {result:?}");
            assert!(answer.fatal.contains("broke the tree protocol"), "{answer:?}");
            assert_eq!((names(dir.path()), names(&to)), (vec!["to".to_owned()], vec![]));
        }
    }
}

#[test]
fn records_out_of_order_are_refused() {
    let file = || Record::Entry(entry(0, b"f", REGULAR));
    let part = |entry| {
        Record::Part(TreePart {
            entry,
            ..TreePart::default()
        })
    };
    let end = |directory| {
        Record::DirectoryEnd(TreeDirectoryEnd {
            directory,
            incomplete: false,
        })
    };
    let walked = || Record::Walked(Default::default());
    let link_of_none = TreeEntry {
        hard_link_of: 7,
        ..entry(0, b"l", REGULAR)
    };
    let empty_link = entry(0, b"l", LINK);
    for (about, records) in [
        ("no root", vec![file()]),
        ("the end before the root", vec![walked()]),
        ("two roots", vec![root(), root()]),
        ("an absent parent", vec![root(), Record::Entry(entry(3, b"f", REGULAR))]),
        (
            "a file as a parent",
            vec![root(), file(), Record::Entry(entry(1, b"f", REGULAR))],
        ),
        ("into an ended directory", vec![root(), end(0), file()]),
        (
            "an end twice",
            vec![root(), Record::Entry(entry(0, b"d", DIRECTORY)), end(1), end(1)],
        ),
        ("content of nothing", vec![root(), part(1)]),
        ("content twice", vec![root(), file(), part(1), part(2)]),
        ("an entry after the last", vec![root(), walked(), file()]),
        ("a link of nothing", vec![root(), Record::Entry(link_of_none)]),
        ("a link to nothing", vec![root(), Record::Entry(empty_link)]),
        ("no type", vec![root(), Record::Entry(entry(0, b"f", 0o644))]),
        (
            "two single entries",
            vec![Record::Root(TreeRoot { directory: None }), file(), file()],
        ),
        (
            "a single directory",
            vec![
                Record::Root(TreeRoot { directory: None }),
                Record::Entry(entry(0, b"d", DIRECTORY)),
            ],
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("to");
        fs::create_dir(&to).unwrap();
        let (result, _) = receive(&to, records);
        assert!(matches!(result, Err(Error::Protocol(_))), "{about}: {result:?}");
        assert!(names(&to).iter().all(|name| name == "d"), "{about}: {:?}", names(&to));
    }
}

#[test]
fn a_wrong_digest_or_a_cut_stream_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("to");
    fs::create_dir(&to).unwrap();
    fs::write(to.join("f"), "old").unwrap();
    let file = || {
        Record::Entry(TreeEntry {
            size: 7,
            ..entry(0, b"f", REGULAR)
        })
    };
    let part = |end| {
        Record::Part(TreePart {
            entry: 1,
            data: b"content".to_vec().into(),
            end,
            ..TreePart::default()
        })
    };
    // A new tree has its mode at once: the copy after an interrupted one lets the destination keep its mode.
    let new = dir.path().join("above/new");
    let (result, _) = receive(&new, vec![root(), file(), part(None)]);
    assert!(matches!(result, Err(Error::Truncated)), "{result:?}");
    assert_eq!(fs::metadata(&new).unwrap().mode() & 0o7777, 0o755);
    let (result, _) = receive(&to, vec![root(), file(), part(None)]);
    assert!(matches!(result, Err(Error::Truncated)), "{result:?}");
    assert_eq!(
        (names(&to), fs::read(to.join("f")).unwrap()),
        (vec!["f".to_owned()], b"old".to_vec())
    );
    for (size, digest) in [(7, [1; 32]), (8, *blake3::hash(b"content").as_bytes())] {
        let end = TreePartEnd {
            size,
            digest: digest.to_vec().into(),
            ..TreePartEnd::default()
        };
        let (_, answer) = receive(&to, vec![root(), file(), part(Some(end))]);
        assert!(answer.problems[0].what.contains("damaged on the way"), "{answer:?}");
        assert_eq!(
            (names(&to), fs::read(to.join("f")).unwrap()),
            (vec!["f".to_owned()], b"old".to_vec())
        );
    }
}

#[test]
fn messages_that_are_too_long_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (mut caller_end, server_end) = UnixStream::pair().unwrap();
    let server = thread::spawn(move || {
        podbridge_tree::serve(server_end.try_clone().unwrap(), server_end, &Temporaries::default())
    });
    caller_end.write_all(&[0xff; 10]).unwrap();
    assert!(matches!(server.join().unwrap(), Err(Error::Protocol(_))));
    // Small on the stream and large after decompression.
    let bomb = TreeSent {
        zstd: zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap().into(),
        ..TreeSent::default()
    };
    let (result, _) = receive_all(dir.path(), vec![sent(vec![root()]), bomb]);
    assert!(matches!(result, Err(Error::Protocol(_))), "{result:?}");
}

#[test]
fn endless_entries_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let files = (0..200).map(|message| {
        let names = (0..1000).map(|number| Record::Entry(entry(0, format!("{message}-{number}").as_bytes(), REGULAR)));
        sent(names.collect())
    });
    let messages = [sent(vec![root()])].into_iter().chain(files).collect();
    let (result, _) = receive_all(&dir.path().join("to"), messages);
    assert!(
        matches!(&result, Err(Error::Local(why)) if why.contains("more than 32 MiB of memory"))
            || matches!(result, Err(Error::Stream(_))),
        "{result:?}"
    );
    let deep = (0..20).map(|message| {
        let below = (0..1000).map(|number| Record::Entry(entry(message * 1000 + number, b"d", DIRECTORY)));
        sent(below.collect())
    });
    let messages = [sent(vec![root()])].into_iter().chain(deep).collect();
    let (result, _) = receive_all(&dir.path().join("deep"), messages);
    assert!(matches!(result, Err(Error::Protocol(_))), "{result:?}");
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).unwrap();
    // The tree is too deep for std::fs::remove_dir_all.
    let delete = TreeOpen {
        delete: true,
        list_changes: false,
        ..options()
    };
    copy(&empty, &dir.path().join("deep"), Direction::Push, &delete).without_problems();
}

/// Another thread keeps exchanging directories with links to the outside.
#[test]
fn a_race_with_links_does_not_lead_out_of_the_root() {
    let dir = tempfile::tempdir().unwrap();
    let (to, outside) = (dir.path().join("to"), dir.path().join("outside"));
    let sources = ["one", "other"].map(|name| dir.path().join(name));
    for source in &sources {
        for file in 0..160 {
            let path = source.join(format!("d{}/e/{file}", file % 4));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            // The two sources differ in length, so that each copy writes all files.
            fs::write(path, source.file_name().unwrap().as_bytes()).unwrap();
        }
    }
    fs::create_dir_all(outside.join("e/extra")).unwrap();
    for file in 0..160 {
        fs::write(outside.join(format!("e/{file}")), "outside").unwrap();
    }
    fs::create_dir(dir.path().join("trash")).unwrap();
    let before = snapshot(&outside);
    let stop = AtomicBool::new(false);
    let race = || {
        let mut swaps = 0usize;
        while !stop.load(Ordering::Relaxed) {
            for directory in 0..4 {
                let (link, inside) = (
                    dir.path().join(format!("link{directory}")),
                    to.join(format!("d{directory}")),
                );
                if !link.is_symlink() {
                    // The receiver replaced the link; this is the directory that was exchanged for it.
                    let _ = fs::rename(&link, dir.path().join(format!("trash/{swaps}-{directory}")));
                    symlink(&outside, &link).unwrap();
                }
                // The directory may not exist at this moment.
                swaps += usize::from(renameat_with(CWD, &link, CWD, &inside, RenameFlags::EXCHANGE).is_ok());
            }
        }
        swaps
    };
    let swaps = thread::scope(|scope| {
        let racer = scope.spawn(race);
        for round in 0..ROUNDS {
            let delete = TreeOpen {
                delete: true,
                ..options()
            };
            // The result does not matter.
            drop(copy(&sources[round % 2], &to, Direction::Push, &delete));
        }
        stop.store(true, Ordering::Relaxed);
        racer.join().unwrap()
    });
    assert!(swaps > ROUNDS, "{swaps} swaps");
    assert_equal(&before, &snapshot(&outside), "outside");
}

#[test]
fn a_receiver_cannot_request_files_that_were_not_announced() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "x").unwrap();
    let (mut output, _input, server) = serve(dir.path(), options());
    let wanted = TreeAnswer {
        wanted: vec![99],
        ..TreeAnswer::default()
    };
    output.send(&wanted).unwrap();
    assert!(matches!(server.join().unwrap(), Err(Error::Protocol(_))));
}
