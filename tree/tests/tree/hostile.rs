//! Peers that lie, and a third party that changes the tree meanwhile: nothing outside of the root is touched, and nothing hangs.

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

use crate::harness::{Direction, assert_equal, copy, look, names, open, serve};

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

/// Gives a receiver these records and the end of the stream; what it makes of them, and what it answered last.
fn receive(to: &Path, records: Vec<Record>) -> (Result<TreeSummary, Error>, TreeAnswer) {
    receive_all(to, vec![sent(records)])
}

fn receive_all(to: &Path, messages: Vec<TreeSent>) -> (Result<TreeSummary, Error>, TreeAnswer) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let serving =
        thread::spawn(move || podbridge_tree::serve(theirs.try_clone().unwrap(), theirs, &Temporaries::default()));
    let mut output = MessageWriter::new(ours.try_clone().unwrap());
    let mut input = MessageReader::new(ours.try_clone().unwrap());
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
        ..open()
    };
    output.send(&open).unwrap();
    for message in messages {
        // It may have had enough.
        if output.send(&message).is_err() {
            break;
        }
    }
    let _ = ours.shutdown(std::net::Shutdown::Write);
    (serving.join().unwrap(), answers.join().unwrap())
}

#[test]
fn names_that_lead_out_are_refused() {
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
    // A tree that is new is nobody else's to see until it is whole.
    let new = dir.path().join("above/new");
    let (result, _) = receive(&new, vec![root(), file(), part(None)]);
    assert!(matches!(result, Err(Error::Truncated)), "{result:?}");
    assert_eq!(fs::metadata(&new).unwrap().mode() & 0o7777, 0o700);
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
        assert!(answer.problems[0].what.contains("changed on its way"), "{answer:?}");
        assert_eq!(
            (names(&to), fs::read(to.join("f")).unwrap()),
            (vec!["f".to_owned()], b"old".to_vec())
        );
    }
}

#[test]
fn messages_have_a_longest() {
    let dir = tempfile::tempdir().unwrap();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let serving =
        thread::spawn(move || podbridge_tree::serve(theirs.try_clone().unwrap(), theirs, &Temporaries::default()));
    ours.write_all(&[0xff; 10]).unwrap();
    assert!(matches!(serving.join().unwrap(), Err(Error::Protocol(_))));
    // Small on the way, and large behind it.
    let bomb = TreeSent {
        zstd: zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap().into(),
        ..TreeSent::default()
    };
    let (result, _) = receive_all(dir.path(), vec![sent(vec![root()]), bomb]);
    assert!(matches!(result, Err(Error::Protocol(_))), "{result:?}");
}

#[test]
fn entries_without_end_are_ended() {
    let dir = tempfile::tempdir().unwrap();
    let files = (0..200).map(|message| {
        let names = (0..1000).map(|number| Record::Entry(entry(0, format!("{message}-{number}").as_bytes(), REGULAR)));
        sent(names.collect())
    });
    let messages = [sent(vec![root()])].into_iter().chain(files).collect();
    let (result, _) = receive_all(&dir.path().join("to"), messages);
    assert!(
        matches!(result, Err(Error::Protocol(_) | Error::Stream(_))),
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
    // Too deep for std.
    let delete = TreeOpen {
        delete: true,
        list_changes: false,
        ..open()
    };
    copy(&empty, &dir.path().join("deep"), Direction::Push, &delete).clean();
}

/// OpenDirectories and links to the outside change places all the while.
#[test]
fn a_race_of_links_leads_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let (to, outside) = (dir.path().join("to"), dir.path().join("outside"));
    let sources = ["one", "other"].map(|name| dir.path().join(name));
    for source in &sources {
        for file in 0..160 {
            let path = source.join(format!("d{}/e/{file}", file % 4));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            // Of different length, so that each copy writes all of them.
            fs::write(path, source.file_name().unwrap().as_bytes()).unwrap();
        }
    }
    fs::create_dir_all(outside.join("e/extra")).unwrap();
    for file in 0..160 {
        fs::write(outside.join(format!("e/{file}")), "outside").unwrap();
    }
    fs::create_dir(dir.path().join("trash")).unwrap();
    let before = look(&outside);
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
                    // The receiver has replaced the link, and this is the directory that was swapped for it.
                    let _ = fs::rename(&link, dir.path().join(format!("trash/{swaps}-{directory}")));
                    symlink(&outside, &link).unwrap();
                }
                // There may be none at this moment.
                swaps += usize::from(renameat_with(CWD, &link, CWD, &inside, RenameFlags::EXCHANGE).is_ok());
            }
        }
        swaps
    };
    let swaps = thread::scope(|scope| {
        let racer = scope.spawn(race);
        for round in 0..ROUNDS {
            let delete = TreeOpen { delete: true, ..open() };
            // Whatever comes of it.
            drop(copy(&sources[round % 2], &to, Direction::Push, &delete));
        }
        stop.store(true, Ordering::Relaxed);
        racer.join().unwrap()
    });
    assert!(swaps > ROUNDS, "{swaps} swaps");
    assert_equal(&before, &look(&outside), "outside");
}

/// A receiver that asks for what was not announced.
#[test]
fn a_receiver_cannot_ask_for_other_files() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("f"), "x").unwrap();
    let (mut output, _input, serving) = serve(dir.path(), open());
    let wanted = TreeAnswer {
        wanted: vec![99],
        ..TreeAnswer::default()
    };
    output.send(&wanted).unwrap();
    assert!(matches!(serving.join().unwrap(), Err(Error::Protocol(_))));
}
