//! Cases that random trees do not reach: single files, conflicts of type, filters, deep and wide trees, files that change meanwhile.

use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use podbridge_proto::v1::{TreeChangeKind, TreeFilter, TreeOpen};
use podbridge_tree::Error;
use rustix::fs::{Mode, OFlags, mkdirat, openat};
use tempfile::TempDir;

use crate::harness::{Direction, assert_equal, copy, names, options, snapshot};

fn source_and_target() -> (TempDir, std::path::PathBuf, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir(&from).unwrap();
    (dir, from, to)
}

fn deleting(patterns: &[&str]) -> TreeOpen {
    let filter = |pattern: &&str| TreeFilter {
        include: pattern.starts_with('+'),
        pattern: pattern.as_bytes()[1..].to_vec().into(),
    };
    TreeOpen {
        delete: true,
        filters: patterns.iter().map(filter).collect(),
        ..options()
    }
}

#[test]
fn a_single_file_goes_to_a_name_or_into_a_directory() {
    let (_dir, from, to) = source_and_target();
    fs::write(from.join("f"), "content").unwrap();
    copy(&from.join("f"), &to.join("new/parent/g"), Direction::Push, &options()).without_problems();
    assert_eq!(fs::read(to.join("new/parent/g")).unwrap(), b"content");
    copy(&from.join("f"), &to.join("new"), Direction::Pull, &options()).without_problems();
    copy(&from.join("f"), &to.join("slash/"), Direction::Push, &deleting(&[])).without_problems();
    assert_eq!(names(&to.join("new")), ["f", "parent"]);
    assert_eq!(names(&to.join("slash")), ["f"]);
    symlink("nowhere", from.join("l")).unwrap();
    copy(&from.join("l"), &to.join("l"), Direction::Push, &options()).without_problems();
    assert_eq!(fs::read_link(to.join("l")).unwrap(), Path::new("nowhere"));
}

#[test]
fn an_error_names_a_missing_source() {
    let (dir, from, to) = source_and_target();
    for direction in [Direction::Push, Direction::Pull] {
        let missing = from.join("no\nsuch");
        let failed = copy(&missing, &to, direction, &options()).result.unwrap_err();
        let expected = format!("{}/no\\nsuch cannot be read: no such file or directory", from.display());
        assert_eq!(failed.to_string(), expected);
        assert_eq!(matches!(failed, Error::Local(_)), direction == Direction::Push);
    }
    assert_eq!(names(dir.path()), ["from"]);
}

#[test]
fn a_tree_over_a_file_is_refused() {
    let (_dir, from, to) = source_and_target();
    fs::write(&to, "precious").unwrap();
    let failed = copy(&from, &to, Direction::Push, &deleting(&[])).result.unwrap_err();
    assert!(failed.to_string().contains("remove it first"), "{failed}");
    assert_eq!(fs::read(&to).unwrap(), b"precious");
}

#[test]
fn a_link_to_the_destination_is_followed_but_no_link_below_it() {
    let (dir, from, to) = source_and_target();
    let outside = dir.path().join("outside");
    fs::create_dir_all(from.join("d")).unwrap();
    fs::write(from.join("d/f"), "new").unwrap();
    for path in ["real", "outside"] {
        fs::create_dir(dir.path().join(path)).unwrap();
    }
    fs::write(outside.join("f"), "old").unwrap();
    symlink("real", &to).unwrap();
    symlink(&outside, dir.path().join("real/d")).unwrap();
    copy(&from, &to, Direction::Push, &deleting(&[])).without_problems();
    assert!(to.symlink_metadata().unwrap().is_symlink());
    assert!(dir.path().join("real/d").symlink_metadata().unwrap().is_dir());
    assert_eq!(fs::read(outside.join("f")).unwrap(), b"old");
    assert_eq!(fs::read(dir.path().join("real/d/f")).unwrap(), b"new");
}

#[test]
fn excluded_files_are_neither_copied_nor_removed() {
    let (_dir, from, to) = source_and_target();
    for file in ["a.o", "keep.o", "src/b.o", "src/c", "build/x"] {
        let path = from.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, file).unwrap();
    }
    for file in ["old.o", "gone/deep/old.o", "gone/deep/other", "extra", "src/extra"] {
        let path = to.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, file).unwrap();
    }
    let options = deleting(&["+keep.o", "-*.o", "-/build/"]);
    let dry = TreeOpen {
        dry_run: true,
        ..options.clone()
    };
    let predicted = copy(&from, &to, Direction::Push, &dry);
    let copied = copy(&from, &to, Direction::Push, &options);
    for kind in [TreeChangeKind::New, TreeChangeKind::Deleted] {
        assert_eq!(predicted.paths(kind), copied.paths(kind));
    }
    assert_eq!(copied.paths(TreeChangeKind::New), ["keep.o", "src/c"]);
    assert_eq!(
        copied.paths(TreeChangeKind::Deleted),
        ["extra", "gone/deep/other", "src/extra"]
    );
    assert_eq!(names(&to), ["gone", "keep.o", "old.o", "src"]);
    assert_eq!(names(&to.join("gone/deep")), ["old.o"]);
    copied.without_problems();
}

#[test]
fn only_delete_replaces_a_directory_that_is_not_empty() {
    let (_dir, from, to) = source_and_target();
    fs::write(from.join("full"), "file").unwrap();
    symlink("x", from.join("empty")).unwrap();
    fs::create_dir_all(to.join("full/deep")).unwrap();
    fs::create_dir(to.join("empty")).unwrap();
    let copied = copy(&from, &to, Direction::Pull, &options());
    assert_eq!(copied.problems.len(), 1);
    assert_eq!(copied.problems[0].path, "full");
    assert!(to.join("full/deep").is_dir());
    assert!(to.join("empty").symlink_metadata().unwrap().is_symlink());
    copy(&from, &to, Direction::Pull, &deleting(&[])).without_problems();
    assert_equal(&snapshot(&from), &snapshot(&to), "after --delete");
}

#[test]
fn deep_trees_are_copied_and_removed() {
    const DEPTH: usize = 1500;
    let (_dir, from, to) = source_and_target();
    let mut at = fs::File::open(&from).unwrap();
    for _ in 0..DEPTH {
        mkdirat(&at, "deeper", Mode::RWXU).unwrap();
        at = openat(&at, "deeper", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
            .unwrap()
            .into();
    }
    let empty = tempfile::tempdir().unwrap();
    let file = openat(&at, "f", OFlags::WRONLY | OFlags::CREATE, Mode::RUSR).unwrap();
    fs::File::from(file).write_all(b"bottom").unwrap();
    for direction in [Direction::Push, Direction::Pull] {
        let summary = copy(&from, &to, direction, &deleting(&[])).without_problems();
        assert_eq!(summary.new as usize, DEPTH + 2);
        assert_eq!(
            copy(&from, &to, direction, &options()).without_problems(),
            Default::default()
        );
        let summary = copy(empty.path(), &to, direction, &deleting(&[])).without_problems();
        assert_eq!(summary.deleted as usize, DEPTH + 1);
        fs::remove_dir(&to).unwrap();
    }
    // The tree is too deep for std::fs::remove_dir_all, which opens a descriptor for each level.
    copy(empty.path(), &from, Direction::Push, &deleting(&[])).without_problems();
}

#[test]
fn holes_stay_holes() {
    let (_dir, from, to) = source_and_target();
    let file = fs::File::create(from.join("sparse")).unwrap();
    file.set_len(3 << 30).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"middle", 1 << 30).unwrap();
    let summary = copy(&from, &to, Direction::Push, &options()).without_problems();
    let meta = fs::metadata(to.join("sparse")).unwrap();
    assert_eq!(meta.len(), 3 << 30);
    assert!(meta.blocks() < 4096 && summary.bytes < 1 << 20, "{meta:?} {summary:?}");
    let mut middle = [0; 6];
    let copied = fs::File::open(to.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&copied, &mut middle, 1 << 30).unwrap();
    assert_eq!(&middle, b"middle");
}

/// A name that the sender does not link becomes a file of its own, and a local name outside of the tree keeps its content.
#[test]
fn hard_links_are_made_and_broken() {
    let (dir, from, to) = source_and_target();
    for name in ["a", "c", "e"] {
        fs::write(from.join(name), "same").unwrap();
    }
    fs::hard_link(from.join("a"), from.join("b")).unwrap();
    fs::hard_link(from.join("c"), from.join("d")).unwrap();
    copy(&from, &to, Direction::Push, &options()).without_problems();
    // All five names become one file, which has another name outside of the tree.
    for name in ["b", "c", "d", "e"] {
        fs::remove_file(to.join(name)).unwrap();
        fs::hard_link(to.join("a"), to.join(name)).unwrap();
    }
    let backup = dir.path().join("backup");
    fs::hard_link(to.join("a"), &backup).unwrap();
    let times = fs::FileTimes::new().set_modified(fs::metadata(from.join("a")).unwrap().modified().unwrap());
    for name in ["c", "e"] {
        fs::File::open(from.join(name)).unwrap().set_times(times).unwrap();
    }
    copy(&from, &to, Direction::Push, &options()).without_problems();
    assert_equal(&snapshot(&from), &snapshot(&to), "links");
    assert_eq!(
        copy(&from, &to, Direction::Push, &options()).without_problems(),
        Default::default()
    );
    assert_eq!(fs::read(&backup).unwrap(), b"same");
}

#[test]
fn a_file_that_keeps_changing_is_reported_and_the_others_copied() {
    let (_dir, from, to) = source_and_target();
    fs::write(from.join("zz-rest"), "at rest").unwrap();
    let busy = from.join("busy");
    fs::write(&busy, vec![1; 8 << 20]).unwrap();
    fs::create_dir(&to).unwrap();
    fs::write(to.join("busy"), "before").unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let file = fs::File::options().write(true).open(&busy).unwrap();
            while !done.load(Ordering::Relaxed) {
                std::os::unix::fs::FileExt::write_all_at(&file, b"x", 0).unwrap();
            }
        });
        let copied = copy(&from, &to, Direction::Push, &options());
        done.store(true, Ordering::Relaxed);
        let problems = &copied.problems;
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].path == "busy" && problems[0].what.contains("changed while it was read"));
        assert!(copied.result.is_ok());
    });
    assert_eq!(fs::read(to.join("busy")).unwrap(), b"before");
    assert_eq!(names(&to), ["busy", "zz-rest"]);
}

#[test]
fn a_log_that_grows_is_copied_as_far_as_it_was() {
    let (_dir, from, to) = source_and_target();
    fs::write(from.join("zz-rest"), "at rest").unwrap();
    let log = from.join("log");
    fs::write(&log, vec![b'x'; 8 << 20]).unwrap();
    let done = AtomicBool::new(false);
    for checksum in [false, true] {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut file = fs::File::options().append(true).open(&log).unwrap();
                while !done.load(Ordering::Relaxed) {
                    file.write_all(b"x").unwrap();
                }
            });
            let open = TreeOpen { checksum, ..options() };
            for _ in 0..3 {
                copy(&from, &to, Direction::Push, &open).without_problems();
            }
            done.store(true, Ordering::Relaxed);
        });
        done.store(false, Ordering::Relaxed);
        let copied = fs::read(to.join("log")).unwrap();
        assert!(copied.len() >= 8 << 20 && copied.iter().all(|byte| *byte == b'x'));
        assert_eq!(fs::read(to.join("zz-rest")).unwrap(), b"at rest");
    }
}

/// Files are removed during the traversal: none of it is an error, and the remaining files arrive.
#[test]
fn files_that_vanish_are_warnings() {
    let (_dir, from, to) = source_and_target();
    for number in 0..2000 {
        fs::write(from.join(format!("{number:04}")), "x").unwrap();
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in (1..2000).step_by(2).collect::<Vec<_>>().into_iter().rev() {
                fs::remove_file(from.join(format!("{number:04}"))).unwrap();
            }
        });
        let copied = copy(&from, &to, Direction::Push, &options());
        assert!(
            copied.problems.iter().all(|problem| problem.warning),
            "{:?}",
            copied.problems
        );
        copied.result.unwrap();
    });
    copy(&from, &to, Direction::Push, &deleting(&[])).without_problems();
    assert_equal(&snapshot(&from), &snapshot(&to), "after the last one vanished");
}

/// Root can read everything, so another user copies: `setpriv` runs this test again.
#[test]
fn another_user_gets_reports_of_unreadable_files_and_owns_the_copies() {
    const CHILD: &str = "PODBRIDGE_TREE_TEST_DIR";
    const USER: u32 = 65_534;
    if let Some(dir) = std::env::var_os(CHILD) {
        let dir = Path::new(&dir);
        for direction in [Direction::Push, Direction::Pull] {
            let to = dir.join(format!("to-{direction:?}"));
            fs::create_dir(&to).unwrap();
            for kept in ["locked/kept", "secret"] {
                fs::create_dir_all(to.join(kept).parent().unwrap()).unwrap();
                fs::write(to.join(kept), "kept").unwrap();
            }
            fs::create_dir(to.join("readonly")).unwrap();
            fs::set_permissions(to.join("readonly"), fs::Permissions::from_mode(0o000)).unwrap();
            let copied = copy(&dir.join("from"), &to, direction, &deleting(&[]));
            let mut paths: Vec<_> = copied.problems.iter().map(|problem| problem.path.clone()).collect();
            paths.sort();
            assert_eq!(paths, ["locked", "secret"], "{:?}", copied.problems);
            assert!(
                copied
                    .problems
                    .iter()
                    .all(|problem| problem.what.contains("permission denied") && !problem.warning)
            );
            let meta = fs::metadata(to.join("plain")).unwrap();
            assert_eq!((meta.uid(), meta.mode() & 0o7777), (USER, 0o444));
            assert_eq!(fs::read(to.join("readonly/f")).unwrap(), b"f");
            assert_eq!(fs::metadata(to.join("readonly")).unwrap().mode() & 0o7777, 0o555);
            // The copies of unreadable files stay.
            assert_eq!(fs::read(to.join("secret")).unwrap(), b"kept");
            assert_eq!(fs::read(to.join("locked/kept")).unwrap(), b"kept");
        }
        return;
    }
    let (dir, from, _) = source_and_target();
    fs::create_dir(from.join("locked")).unwrap();
    fs::create_dir(from.join("readonly")).unwrap();
    for file in ["secret", "plain", "readonly/f"] {
        fs::write(from.join(file), Path::new(file).file_name().unwrap().as_bytes()).unwrap();
    }
    for (path, mode) in [
        ("locked", 0o700),
        ("secret", 0o600),
        ("plain", 0o444),
        ("readonly", 0o555),
    ] {
        fs::set_permissions(from.join(path), fs::Permissions::from_mode(mode)).unwrap();
    }
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    // A copy of the test program where the other user may run it.
    let program = dir.path().join("test");
    // `cp` makes the copy: a process that another test forks meanwhile would inherit a descriptor that is open for writing, and the copy
    // could not be executed.
    let own = std::env::current_exe().unwrap();
    let copied = std::process::Command::new("cp")
        .arg(own)
        .arg(&program)
        .status()
        .unwrap();
    assert!(copied.success());
    let status = std::process::Command::new("setpriv")
        .args([&format!("--reuid={USER}"), &format!("--regid={USER}"), "--clear-groups"])
        .arg(&program)
        .args([
            "--exact",
            "edge_cases::another_user_gets_reports_of_unreadable_files_and_owns_the_copies",
        ])
        .env(CHILD, dir.path())
        .output()
        .unwrap();
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stdout));
}
