//! `podbridge sync` over the local link: both directions, its messages, and that an interrupted copy leaves nothing.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Output, Stdio};

use podbridge_tests::pair::{self, Pair, eventually};
use podbridge_tests::trees;
use rustix::process::Signal;

/// Runs `podbridge sync`.
fn sync(pair: &Pair, arguments: &[&str]) -> Output {
    pair.podbridge(&[&["sync"], arguments].concat()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Counts the temporary files in a directory.
fn temporaries(directory: &Path) -> usize {
    let names = fs::read_dir(directory).into_iter().flatten().flatten();
    names
        .filter(|name| name.file_name().as_encoded_bytes().starts_with(b".podbridge-"))
        .count()
}

#[test]
fn a_tree_is_copied_into_the_pod_and_back() {
    let pair = Pair::start();
    let path = |name: &str| pair.dir().join(name).display().to_string();
    fs::create_dir_all(path("from/sub")).unwrap();
    fs::write(path("from/sub/\u{1b}[2Jname"), "content").unwrap();
    fs::set_permissions(path("from/sub"), fs::Permissions::from_mode(0o2751)).unwrap();
    let upload = sync(&pair, &["-v", &path("from"), &format!("x:{}", path("to/"))]);
    assert!(upload.status.success(), "{upload:?}");
    assert_eq!(text(&upload.stdout), "new .\nnew sub\nnew sub/\\u{1b}[2Jname\n");
    assert_eq!(
        text(&upload.stderr),
        "podbridge: 3 new, 0 changed, 0 with other attributes, 0 deleted; 7 B of content\n"
    );
    let download = sync(&pair, &["-q", &format!("x:{}", path("to")), &path("back")]);
    assert!(
        download.status.success() && download.stderr.is_empty() && download.stdout.is_empty(),
        "{download:?}"
    );
    assert_eq!(fs::metadata(path("back/sub")).unwrap().mode() & 0o7777, 0o2751);
    let again = sync(
        &pair,
        &["--dry-run", "--delete", &path("back"), &format!("x:{}", path("to"))],
    );
    assert_eq!(
        text(&again.stderr),
        "podbridge: would be 0 new, 0 changed, 0 with other attributes, 0 deleted; 0 B of content\n"
    );
}

/// Each row: what is copied out of the pod, and the mode that the file then has here.
#[test]
fn a_file_of_a_pod_gets_no_set_id_bits() {
    let pair = Pair::start();
    let path = |name: &str| pair.dir().join(name).display().to_string();
    fs::create_dir(path("pod")).unwrap();
    fs::write(path("pod/tool"), "content").unwrap();
    fs::set_permissions(path("pod/tool"), fs::Permissions::from_mode(0o6777)).unwrap();
    let of_pod = |name: &str| format!("x:{}", path(name));
    for (about, arguments, found, expected) in [
        ("sync", vec!["sync", "-q"], "a/tool", 0o777),
        (
            "sync --privileged",
            vec!["sync", "-q", "--privileged"],
            "b/tool",
            0o6777,
        ),
        ("cp", vec!["cp", "-q"], "c", 0o750),
    ] {
        let to = path(found.trim_end_matches("/tool"));
        let from = of_pod(if found.contains('/') { "pod" } else { "pod/tool" });
        let mut command = pair.command(Path::new("sh"));
        command
            .args(["-c", r#"umask 027; exec "$0" "$@""#])
            .arg(pair.podbridge(&[]).get_program())
            .args([&arguments[..], &[&from, &to]].concat());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{about}: {output:?}");
        assert_eq!(fs::metadata(path(found)).unwrap().mode() & 0o7777, expected, "{about}");
    }
    // Into a pod everything is copied.
    let output = sync(&pair, &["-q", &path("pod"), &of_pod("copy")]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(fs::metadata(path("copy/tool")).unwrap().mode() & 0o7777, 0o6777);
}

#[test]
fn problems_name_their_side_and_have_its_exit_code() {
    let pair = Pair::start();
    let path = |name: &str| pair.dir().join(name).display().to_string();
    fs::create_dir_all(path("from")).unwrap();
    fs::write(path("from/f"), "file").unwrap();
    fs::write(path("from/other"), "other").unwrap();
    fs::create_dir_all(path("to/f/full")).unwrap();
    let expected = ["f in the pod: is a directory", "f here: is a directory"];
    let (local, remote) = (path("to"), format!("x:{}", path("to")));
    let from = (path("from"), format!("x:{}", path("from")));
    for (source, destination, code, sentence) in [
        (&from.0, &remote, 236, expected[0]),
        (&from.1, &local, 222, expected[1]),
    ] {
        let _ = fs::remove_file(path("to/other"));
        let failed = sync(&pair, &["-q", source, destination]);
        assert_eq!(failed.status.code(), Some(code));
        assert!(text(&failed.stderr).contains(sentence), "{failed:?}");
        assert_eq!(fs::read(path("to/other")).unwrap(), b"other", "the rest is copied");
    }
    let missing = sync(&pair, &[&format!("x:{}", path("missing")), &local]);
    assert_eq!(missing.status.code(), Some(236));
    assert_eq!(
        text(&missing.stderr),
        format!(
            "podbridge: {} cannot be read: no such file or directory\n",
            path("missing")
        )
    );
}

#[test]
fn an_interrupted_copy_leaves_no_temporary() {
    let pair = Pair::start();
    let path = |name: &str| pair.dir().join(name).display().to_string();
    fs::create_dir_all(path("from")).unwrap();
    // The copy of this file takes longer than the test needs to kill it.
    let large = fs::File::create(path("from/large")).unwrap();
    let block = vec![7; 1 << 20];
    for _ in 0..256 {
        std::io::Write::write_all(&mut &large, &block).unwrap();
    }
    for (source, destination, signal) in [
        (path("from"), format!("x:{}", path("a")), Signal::INT),
        (format!("x:{}", path("from")), path("b"), Signal::INT),
        (path("from"), format!("x:{}", path("c")), Signal::KILL),
        (path("from"), format!("x:{}", path("d")), Signal::TERM),
    ] {
        let to = destination.trim_start_matches("x:").to_owned();
        let mut command = pair.podbridge(&["sync", "-q", "--compress", "never", &source, &destination]);
        let mut child = command.stderr(Stdio::null()).spawn().unwrap();
        eventually("a temporary file exists", || temporaries(Path::new(&to)) == 1);
        pair::send_signal(child.id(), signal);
        let ended = child.wait().unwrap();
        assert_eq!(ended.code(), (signal != Signal::KILL).then_some(128 + signal.as_raw()));
        eventually("nothing is left", || fs::read_dir(&to).unwrap().count() == 0);
    }
}

#[test]
fn a_killed_bridge_is_replaced_under_a_copy() {
    let pair = Pair::start();
    let path = |name: &str| pair.dir().join(name).display().to_string();
    fs::create_dir_all(path("from")).unwrap();
    let content: Vec<u8> = (0..64_000_000u32).map(|number| (number % 251) as u8).collect();
    fs::write(path("from/large"), &content).unwrap();
    let mut command = pair.podbridge(&[
        "sync",
        "-q",
        "--compress",
        "never",
        &path("from"),
        &format!("x:{}", path("to")),
    ]);
    let mut child = command.spawn().unwrap();
    eventually("a temporary file exists", || temporaries(Path::new(&path("to"))) == 1);
    pair.bridges()
        .into_iter()
        .for_each(|bridge| pair::send_signal(bridge, Signal::KILL));
    assert!(child.wait().unwrap().success());
    assert!(fs::read(path("to/large")).unwrap() == content);
}

/// Each run has another seed. A failure prints it, and `soak sync CUTS SEED` repeats the run.
#[test]
fn cut_links_lose_no_file() {
    let report = trees::run(60, fastrand::u64(..));
    println!("{report}");
    assert!(report.is_clean(), "{report}");
}

/// The copy runs as a user other than root, because read-only directories do not hinder root.
#[test]
fn read_only_directories_of_the_copying_user_are_updated() {
    let pair = Pair::start();
    let path = |name: &str| pair.dir().join(name).display().to_string();
    let mode = |name: &str, mode| fs::set_permissions(path(name), fs::Permissions::from_mode(mode)).unwrap();
    fs::set_permissions(pair.dir(), fs::Permissions::from_mode(0o711)).unwrap();
    fs::create_dir_all(path("from/sub")).unwrap();
    fs::create_dir(path("theirs")).unwrap();
    let is_root = rustix::process::geteuid().is_root();
    if is_root {
        std::os::unix::fs::chown(path("theirs"), Some(65534), Some(65534)).unwrap();
    }
    let user: &[&str] = if is_root { &["--user", "nobody"] } else { &[] };
    let (from, to) = (path("from"), format!("x:{}", path("theirs/to")));
    let copy = || {
        let copied = sync(&pair, &[user, &["--delete", &from, &to]].concat());
        assert!(copied.status.success(), "{copied:?}");
        text(&copied.stderr)
    };
    fs::write(path("from/old"), "old").unwrap();
    fs::create_dir(path("from/gone")).unwrap();
    fs::write(path("from/gone/file"), "gone").unwrap();
    for name in ["from/gone", "from/sub", "from"] {
        mode(name, 0o555);
    }
    assert!(copy().contains(" 5 new, "));
    let again = copy();
    assert!(
        again.contains(" 0 new, 0 changed, 0 with other attributes, "),
        "{again}"
    );
    assert_eq!(fs::metadata(path("theirs/to")).unwrap().mode() & 0o7777, 0o555);
    for name in ["from/gone", "from"] {
        mode(name, 0o755);
    }
    fs::remove_dir_all(path("from/gone")).unwrap();
    fs::remove_file(path("from/old")).unwrap();
    fs::write(path("from/new"), "new").unwrap();
    mode("from", 0o555);
    let changed = copy();
    assert!(
        changed.contains(" 1 new, ") && changed.contains(" 3 deleted"),
        "{changed}"
    );
    // The removal of the test's directory needs write permission.
    for name in ["from", "from/sub"] {
        mode(name, 0o755);
    }
    if !is_root {
        for name in ["theirs/to", "theirs/to/sub"] {
            mode(name, 0o755);
        }
    }
}

#[test]
fn a_copy_reports_that_its_remote_side_was_killed() {
    let pair = Pair::start();
    let path = |name: &str| pair.dir().join(name).display().to_string();
    fs::create_dir(path("from")).unwrap();
    // The other side reads this file longer than it lives.
    fs::File::create(path("from/hole")).unwrap().set_len(1 << 40).unwrap();
    let mut command = pair.podbridge(&["sync", "--checksum", &path("from"), &format!("x:{}", path("to"))]);
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    eventually("the remote side runs", || pair.commands().len() == 1);
    pair::send_signal(pair.commands()[0], Signal::KILL);
    let ended = child.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(137));
    assert!(
        text(&ended.stderr).contains("was ended by signal 9 before it was complete"),
        "{ended:?}"
    );
}
