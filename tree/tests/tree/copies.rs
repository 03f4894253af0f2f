//! Trees by chance come over whole, in both directions, over whatever was there before.

use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use fastrand::Rng;
use podbridge_proto::v1::{TreeCompression, TreeOpen, TreeSent};
use podbridge_tree::Temporaries;

use crate::harness::{Direction, assert_equal, copy, look, open, serve};
use crate::random::{disturb, fill};

const ROUNDS: usize = 16;

fn with_delete() -> TreeOpen {
    TreeOpen { delete: true, ..open() }
}

/// Runs with one seed after the other; a failure tells it.
fn rounds(test: impl Fn(&mut Rng, &str)) {
    let first = fastrand::u64(..);
    for round in 0..ROUNDS as u64 {
        let seed = first.wrapping_add(round);
        test(&mut Rng::with_seed(seed), &format!("seed {seed}"));
    }
}

#[test]
fn a_random_tree_becomes_what_the_source_is() {
    rounds(|rng, seed| {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fill(&from, rng, 120);
        let expected = look(&from);
        match rng.u8(..3) {
            0 => {}
            1 => fill(&to, rng, 60),
            _ => {
                copy(&from, &to, Direction::Push, &with_delete()).clean();
                disturb(&to, rng);
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
        let before = to.exists().then(|| look(&to));
        let foretold = copy(&from, &to, direction, &dry).clean();
        assert_eq!(
            before,
            to.exists().then(|| look(&to)),
            "{seed}: a dry run changes nothing"
        );
        let summary = copy(&from, &to, direction, &options).clean();
        assert_equal(&expected, &look(&to), seed);
        assert_eq!(foretold.new, summary.new, "{seed}");
        let again = copy(&from, &to, direction, &options);
        assert!(again.changes.is_empty(), "{seed}: {:?}", again.changes);
        assert_eq!(again.clean().bytes, 0, "{seed}");
        assert_eq!(expected, look(&from), "{seed}: the source is not touched");
        fs::remove_dir_all(&to).unwrap();
    });
}

/// A stream on which the answer to a message is there before the sender goes on.
struct Unhurried(UnixStream);

impl Write for Unhurried {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.write(data)
    }

    fn flush(&mut self) -> io::Result<()> {
        thread::sleep(Duration::from_millis(100));
        self.0.flush()
    }
}

#[test]
fn a_file_may_be_wanted_as_soon_as_it_is_truncate_path() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir(&from).unwrap();
    // More than one message of entries.
    for number in 0..4000 {
        fs::write(from.join(format!("{number:0100}")), number.to_string()).unwrap();
    }
    let (ours, theirs) = UnixStream::pair().unwrap();
    let serving = thread::spawn(move || {
        let output = Unhurried(theirs.try_clone().unwrap());
        podbridge_tree::serve(theirs, output, &Temporaries::default())
    });
    let options = TreeOpen {
        agent_sends: true,
        root: from.as_os_str().as_bytes().to_vec().into(),
        ..open()
    };
    let input = ours.try_clone().unwrap();
    let summary = podbridge_tree::call(&options, &to, input, ours, &Temporaries::default(), &mut |_| {}).unwrap();
    serving.join().unwrap().unwrap();
    // With the directory itself.
    assert_eq!(summary.new, 4001);
    assert_equal(&look(&from), &look(&to), "unhurried");
}

/// It has not said that it reads streams.
#[test]
fn a_receiver_of_an_older_release_gets_frames() {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..500 {
        fs::write(dir.path().join(format!("a-file-with-a-long-name-{number}")), "").unwrap();
    }
    let options = TreeOpen {
        compression: TreeCompression::Always.into(),
        ..open()
    };
    let (output, mut input, serving) = serve(dir.path(), options);
    let sent: TreeSent = input.receive().unwrap();
    assert!(!sent.zstd.is_empty() && sent.zstd_stream.is_empty(), "{sent:?}");
    drop((output, input));
    assert!(serving.join().unwrap().is_err(), "its receiver has gone");
}

#[test]
fn a_dry_run_tells_what_a_file_would_replace() {
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
fn what_another_copy_is_about_to_name_is_not_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir(&from).unwrap();
    fs::create_dir(&to).unwrap();
    for name in [".podbridge-0123456789abcdef", ".podbridge-other"] {
        fs::write(to.join(name), "").unwrap();
    }
    copy(&from, &to, Direction::Push, &with_delete()).clean();
    assert!(to.join(".podbridge-0123456789abcdef").exists());
    assert!(!to.join(".podbridge-other").exists());
}
