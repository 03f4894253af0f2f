//! Copies of random trees, in both directions, over empty and filled destinations; and what else a copy between two sound sides must do.

use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use podbridge_proto::v1::{TreeCompression, TreeOpen, TreeSent};
use podbridge_tree::Temporaries;

use crate::harness::{Direction, assert_equal, copy, options, serve, snapshot};
use crate::random::{change_randomly, fill};

const ROUNDS: usize = 16;

fn with_delete() -> TreeOpen {
    TreeOpen {
        delete: true,
        ..options()
    }
}

/// Runs a test with a series of seeds. A failure names its seed.
fn rounds(test: impl Fn(&mut Rng, &str)) {
    let first = fastrand::u64(..);
    for round in 0..ROUNDS as u64 {
        let seed = first.wrapping_add(round);
        test(&mut Rng::with_seed(seed), &format!("seed {seed}"));
    }
}

#[test]
fn a_copy_of_a_random_tree_equals_its_source() {
    rounds(|rng, seed| {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fill(&from, rng, 120);
        let expected = snapshot(&from);
        match rng.u8(..3) {
            0 => {}
            1 => fill(&to, rng, 60),
            _ => {
                copy(&from, &to, Direction::Push, &with_delete()).without_problems();
                change_randomly(&to, rng);
            }
        }
        let direction = *rng.choice(&[Direction::Push, Direction::Pull]).unwrap();
        let options = TreeOpen {
            checksum: rng.bool(),
            compression: rng.i32(0..3),
            ..with_delete()
        };
        let dry = TreeOpen {
            dry_run: true,
            ..options.clone()
        };
        let before = to.exists().then(|| snapshot(&to));
        let predicted = copy(&from, &to, direction, &dry).without_problems();
        assert_eq!(
            before,
            to.exists().then(|| snapshot(&to)),
            "{seed}: a dry run changes nothing"
        );
        let summary = copy(&from, &to, direction, &options).without_problems();
        assert_equal(&expected, &snapshot(&to), seed);
        assert_eq!(predicted.new, summary.new, "{seed}");
        let again = copy(&from, &to, direction, &options);
        assert!(again.changes.is_empty(), "{seed}: {:?}", again.changes);
        assert_eq!(again.without_problems().bytes, 0, "{seed}");
        assert_eq!(expected, snapshot(&from), "{seed}: the source is not touched");
        fs::remove_dir_all(&to).unwrap();
    });
}

/// A stream that waits after each message, so that the answer arrives before the sender continues.
struct SlowFlush(UnixStream);

impl Write for SlowFlush {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        // Long enough for the receiver to answer what it has; there is no event on this side to wait for.
        thread::sleep(Duration::from_millis(100));
        self.0.flush()
    }
}

#[test]
fn content_may_be_requested_while_its_entry_is_being_sent() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir(&from).unwrap();
    // Enough entries for more than one message.
    for number in 0..4000 {
        fs::write(from.join(format!("{number:0100}")), number.to_string()).unwrap();
    }
    let (caller_end, server_end) = UnixStream::pair().unwrap();
    let server = thread::spawn(move || {
        let output = SlowFlush(server_end.try_clone().unwrap());
        podbridge_tree::serve(server_end, output, &Temporaries::default())
    });
    let options = TreeOpen {
        agent_sends: true,
        root: from.as_os_str().as_bytes().to_vec().into(),
        ..options()
    };
    let input = caller_end.try_clone().unwrap();
    let summary = podbridge_tree::call(&options, &to, input, caller_end, &Temporaries::default(), &mut |_| {}).unwrap();
    server.join().unwrap().unwrap();
    // 4000 files and the directory itself.
    assert_eq!(summary.new, 4001);
    assert_equal(&snapshot(&from), &snapshot(&to), "slow flush");
}

/// An older receiver does not announce that it reads streams.
#[test]
fn a_receiver_of_an_older_release_gets_frames() {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..500 {
        fs::write(dir.path().join(format!("a-file-with-a-long-name-{number}")), "").unwrap();
    }
    let options = TreeOpen {
        compression: TreeCompression::Always.into(),
        ..options()
    };
    let (output, mut input, server) = serve(dir.path(), options);
    let sent: TreeSent = input.receive().unwrap();
    assert!(!sent.zstd.is_empty() && sent.zstd_stream.is_empty(), "{sent:?}");
    drop((output, input));
    assert!(server.join().unwrap().is_err(), "the receiver has closed the stream");
}

#[test]
fn a_dry_run_lists_what_a_file_would_replace() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir(&from).unwrap();
    fs::create_dir_all(to.join("a/b")).unwrap();
    fs::write(from.join("a"), "file").unwrap();
    fs::write(to.join("a/b/c"), "deep").unwrap();
    let dry = TreeOpen {
        dry_run: true,
        ..with_delete()
    };
    let sorted = |options: &TreeOpen| {
        let mut changes = copy(&from, &to, Direction::Push, options).changes;
        changes.sort();
        changes
    };
    let would = sorted(&dry);
    assert!(would.iter().any(|(_, path)| path == b"a/b/c"), "{would:?}");
    assert_eq!(sorted(&with_delete()), would);
}

#[test]
fn temporary_files_of_other_copies_are_not_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir(&from).unwrap();
    fs::create_dir(&to).unwrap();
    for name in [".podbridge-0123456789abcdef", ".podbridge-other"] {
        fs::write(to.join(name), "").unwrap();
    }
    copy(&from, &to, Direction::Push, &with_delete()).without_problems();
    assert!(to.join(".podbridge-0123456789abcdef").exists());
    assert!(!to.join(".podbridge-other").exists());
}
