//! Single files by `podbridge cp`: over links that are cut, files with holes, and copies that are killed and must leave nothing.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use fastrand::Rng;
use podbridge_tests::pair::{self, Pair, eventually};
use rustix::process::Signal;

use crate::puts::{create_file, send_request};

const MIB: u64 = 1 << 20;
/// Longer than all flow-control windows and buffers together.
const SIZE: u64 = 24 * MIB;
/// Numbers of passed bytes at which the link is cut.
const CUTS: [u64; 4] = [3 * MIB, 8 * MIB, 14 * MIB, 20 * MIB];

/// How client and bridge exchange the content.
#[derive(Debug, Clone, Copy)]
enum Via {
    /// The client passes the descriptor of a regular file.
    Descriptor,
    /// The client has a pipe, and content travels in frames.
    Frames,
}

fn random(rng: &mut Rng, size: u64) -> Vec<u8> {
    let mut content = vec![0; size as usize];
    rng.fill(&mut content);
    content
}

fn remote(path: &Path) -> String {
    format!("x:{}", path.display())
}

fn cp(pair: &Pair, from: &str, to: &str) -> Command {
    pair.podbridge(&["cp", "--fsync", from, to])
}

/// Runs a command that must succeed.
fn succeed(mut command: Command) -> Output {
    let output = command.stderr(Stdio::piped()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn upload(pair: &Pair, via: Via, content: &[u8], to: &Path) {
    let local = pair.dir().join("local");
    fs::write(&local, content).unwrap();
    let command = match via {
        Via::Descriptor => cp(pair, local.to_str().unwrap(), &remote(to)),
        Via::Frames => {
            let mut command = cp(pair, "-", &remote(to));
            command.stdin(File::open(&local).unwrap());
            command
        }
    };
    succeed(command);
}

fn download(pair: &Pair, via: Via, from: &Path) -> Vec<u8> {
    let local = pair.dir().join("local");
    match via {
        Via::Descriptor => {
            succeed(cp(pair, &remote(from), local.to_str().unwrap()));
            fs::read(&local).unwrap()
        }
        Via::Frames => succeed(cp(pair, &remote(from), "-")).stdout,
    }
}

/// Returns the temporary files in a directory.
fn temporaries(directory: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(directory).unwrap().flatten().map(|entry| entry.path());
    let hidden = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().contains("podbridge-");
    paths.filter(hidden).collect()
}

/// Makes an empty directory for the pod's side.
fn make_remote_dir(pair: &Pair) -> PathBuf {
    let path = pair.dir().join("there");
    fs::create_dir(&path).unwrap();
    path
}

/// Copies a file while its link is cut, and checks that little more than its content passes.
fn copy_resumes(via: Via, up: bool) {
    let (pair, proxy) = Pair::with_proxy(1);
    let path = make_remote_dir(&pair).join("file");
    let content = random(&mut Rng::with_seed(1), SIZE);
    // The first copy dials the links, so that their bytes do not count below.
    fs::write(&path, "x").unwrap();
    download(&pair, Via::Frames, &path);
    let before = proxy.passed();
    proxy.cut_after(&CUTS);
    if up {
        upload(&pair, via, &content, &path);
    } else {
        fs::write(&path, &content).unwrap();
        assert!(download(&pair, via, &path) == content, "{via:?}");
    }
    assert!(fs::read(&path).unwrap() == content, "{via:?}");
    assert_eq!(proxy.stop_cutting(), CUTS.len() as u64, "all cuts were made");
    let passed = proxy.passed() - before;
    // Copies that begin anew would take 45 MiB more. Each cut may lose what was in flight.
    let most = SIZE + CUTS.len() as u64 * 2 * MIB;
    assert!(
        (SIZE..most).contains(&passed),
        "{via:?}: {passed} bytes passed for {SIZE}"
    );
    assert!(temporaries(path.parent().unwrap()).is_empty());
}

#[test]
fn a_put_resumes_after_its_link_was_cut() {
    copy_resumes(Via::Descriptor, true);
    copy_resumes(Via::Frames, true);
}

#[test]
fn a_get_resumes_after_its_link_was_cut() {
    copy_resumes(Via::Descriptor, false);
    copy_resumes(Via::Frames, false);
}

/// The cuts are anywhere: in the first bytes, in the first messages, in answers.
#[test]
fn files_are_equal_wherever_the_link_is_cut() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let (pair, proxy) = Pair::with_proxy(seed);
    let path = make_remote_dir(&pair).join("file");
    for round in 0..24 {
        let size = rng.u64(0..4 * MIB);
        let content = random(&mut rng, size);
        let via = [Via::Descriptor, Via::Frames][round % 2];
        proxy.allow_cuts(rng.u64(1..=3));
        upload(&pair, via, &content, &path);
        proxy.stop_cutting();
        assert!(
            fs::read(&path).unwrap() == content,
            "seed {seed}, round {round}, {via:?}"
        );
        proxy.allow_cuts(rng.u64(1..=3));
        let got = download(&pair, via, &path);
        proxy.stop_cutting();
        assert!(got == content, "seed {seed}, round {round}, {via:?}");
    }
    eventually("no temporary file is left", || {
        temporaries(path.parent().unwrap()).is_empty()
    });
}

/// Makes a file with 5,000 bytes of data at each of these offsets and holes elsewhere.
fn make_sparse(path: &Path, size: u64, data: &[u64]) {
    let file = File::create(path).unwrap();
    for offset in data {
        file.write_all_at(&[7; 5000], *offset).unwrap();
    }
    file.set_len(size).unwrap();
}

#[test]
fn a_file_with_more_than_4_gib_of_holes_is_copied_in_both_directions() {
    let pair = Pair::start();
    let size = (4 << 30) + 100 * MIB + 1;
    let (local, remote_copy, back) = (
        pair.dir().join("local"),
        make_remote_dir(&pair).join("file"),
        pair.dir().join("back"),
    );
    let data = [MIB, (4 << 30) + 77, size - 5000];
    make_sparse(&local, size, &data);
    succeed(cp(&pair, local.to_str().unwrap(), &remote(&remote_copy)));
    succeed(cp(&pair, &remote(&remote_copy), back.to_str().unwrap()));
    for copy in [&remote_copy, &back] {
        let found = fs::metadata(copy).unwrap();
        assert_eq!(found.len(), size);
        assert!(found.blocks() * 512 < MIB, "{} blocks", found.blocks());
        let file = File::open(copy).unwrap();
        for offset in data {
            let mut around = vec![1; 5002.min((size - offset + 1) as usize)];
            file.read_exact_at(&mut around, offset - 1).unwrap();
            assert_eq!((around[0], around[1], around[5000]), (0, 7, 7), "{offset}");
        }
    }
    // A pipe gets the zeros themselves.
    let mut child = cp(&pair, &remote(&remote_copy), "-")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let length = std::io::copy(&mut child.stdout.take().unwrap(), &mut std::io::sink()).unwrap();
    assert_eq!(length, size);
    assert!(child.wait().unwrap().success());
}

/// Starts a copy and waits until its temporary file exists. The copy takes long, because both ends hash the zeros of its holes.
fn start_long_copy(pair: &Pair, directory: &Path, size: u64) -> Child {
    let local = pair.dir().join("long");
    make_sparse(&local, size, &[0]);
    let mut command = cp(pair, local.to_str().unwrap(), &remote(&directory.join("file")));
    let child = command.stderr(Stdio::null()).spawn().unwrap();
    eventually("the copy has begun", || !temporaries(directory).is_empty());
    child
}

#[test]
fn a_killed_client_leaves_nothing_in_the_pod() {
    let pair = Pair::start();
    let directory = make_remote_dir(&pair);
    let mut by_descriptor = start_long_copy(&pair, &directory, 1 << 40);
    by_descriptor.kill().unwrap();
    by_descriptor.wait().unwrap();
    eventually("nothing is left", || temporaries(&directory).is_empty());

    let mut command = cp(&pair, "-", &remote(&directory.join("file")));
    let mut by_frames = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = by_frames.stdin.take().unwrap();
    stdin.write_all(&vec![1; 3 << 20]).unwrap();
    eventually("the copy has begun", || !temporaries(&directory).is_empty());
    by_frames.kill().unwrap();
    by_frames.wait().unwrap();
    eventually("nothing is left", || temporaries(&directory).is_empty());
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
}

#[test]
fn a_killed_bridge_is_replaced_under_a_copy() {
    let pair = Pair::start();
    let directory = make_remote_dir(&pair);
    let mut copy = start_long_copy(&pair, &directory, 8 << 30);
    let bridges = pair.bridges();
    assert_eq!(bridges.len(), 1);
    pair::send_signal(bridges[0], Signal::KILL);
    eventually("another bridge runs", || {
        pair.bridges().iter().any(|pid| *pid != bridges[0])
    });
    assert!(copy.wait().unwrap().success());
    let found = fs::metadata(directory.join("file")).unwrap();
    assert_eq!(found.len(), 8 << 30);
    assert!(found.blocks() * 512 < MIB);
}

#[test]
fn each_file_that_cannot_be_copied_gets_one_sentence() {
    let pair = Pair::start();
    let directory = make_remote_dir(&pair);
    let file = pair.dir().join("a file");
    fs::write(&file, "content").unwrap();
    let local = file.to_str().unwrap();
    fs::create_dir(directory.join("a file")).unwrap();
    let no_such = directory.join("no/such");
    let cases = [
        (local, remote(&directory), "directory"),
        (local, remote(&no_such), "no such file or directory"),
        (local, remote(&file.join("below")), "not a directory"),
        (local, "x:/dev/null".into(), "not a regular file"),
        (local, "x:/proc/new".into(), "/proc/new"),
        (
            &remote(&directory),
            pair.dir().join("new").display().to_string(),
            "directory",
        ),
        (
            &remote(&no_such),
            pair.dir().join("new").display().to_string(),
            "no such file",
        ),
        (
            "x:/dev/zero",
            pair.dir().join("new").display().to_string(),
            "not a regular file",
        ),
    ];
    for (from, to, words) in cases {
        let output = cp(&pair, from, &to).output().unwrap();
        let message = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(236), "{from} to {to}: {message}");
        assert!(
            message.contains(words) && message.trim_end().lines().count() == 1,
            "{from} to {to}: {message}"
        );
    }
    let output = cp(&pair, directory.to_str().unwrap(), "x:/tmp/new").output().unwrap();
    assert_eq!(output.status.code(), Some(222));
    assert!(!pair.dir().join("new").exists());
    assert!(temporaries(&directory).is_empty());
    assert!(temporaries(pair.dir()).is_empty());

    // An empty file, and a file of /proc, whose size is 0 whatever its content.
    upload(&pair, Via::Descriptor, b"", &directory.join("empty"));
    assert_eq!(download(&pair, Via::Descriptor, &directory.join("empty")), b"");
    assert!(download(&pair, Via::Descriptor, Path::new("/proc/version")).starts_with(b"Linux"));
}

/// The command line has no options for these two.
#[test]
fn requests_may_have_a_root_and_ask_for_a_sync() {
    let pair = Pair::start();
    let directory = make_remote_dir(&pair);
    fs::create_dir(directory.join("sub")).unwrap();
    std::os::unix::fs::symlink("sub", directory.join("link")).unwrap();
    let content = create_file(&pair.dir().join("content"), &[7; 300_000]);
    let put = |path: &str| {
        let request = serde_json::json!({
            "v": 1, "op": "put", "requires": ["root", "sync"], "root": directory, "path": path, "sync": true, "mode": 0o600,
        });
        send_request(&pair, &request.to_string(), &[content.try_clone().unwrap()]).1
    };
    let done = put("sub/file");
    assert!(done.contains(r#""outcome":"ok""#) && done.contains("blake3"), "{done}");
    assert_eq!(fs::read(directory.join("sub/file")).unwrap(), [7; 300_000]);
    for (path, words) in [
        ("link/file", "symbolic link"),
        ("../file", "`..`"),
        ("sub", "directory"),
    ] {
        let refused = put(path);
        assert!(refused.contains("failed") && refused.contains(words), "{refused}");
    }
    let request = serde_json::json!({"v": 1, "op": "get", "root": directory, "path": "sub/file"});
    let (got, _) = send_request(&pair, &request.to_string(), &[]);
    assert_eq!(got, [7; 300_000]);
    let request = serde_json::json!({"v": 1, "op": "stat", "root": directory, "path": "link/file"});
    assert!(
        send_request(&pair, &request.to_string(), &[])
            .1
            .contains("symbolic link")
    );
}

#[test]
fn downloads_keep_long_names_and_write_through_links() {
    let pair = Pair::start();
    let path = |name: &str| pair.dir().join(name);
    let longest = "n".repeat(255);
    fs::write(path(&longest), "content").unwrap();
    fs::create_dir(path("here")).unwrap();
    succeed(cp(&pair, &remote(&path(&longest)), path("here").to_str().unwrap()));
    assert_eq!(fs::read(path("here").join(&longest)).unwrap(), b"content");
    // A link to a file that does not exist yet.
    std::os::unix::fs::symlink("target", path("here/link")).unwrap();
    succeed(cp(&pair, &remote(&path(&longest)), path("here/link").to_str().unwrap()));
    assert_eq!(fs::read_link(path("here/link")).unwrap(), Path::new("target"));
    assert_eq!(fs::read(path("here/target")).unwrap(), b"content");
    let missing = format!("{}/", path("missing").display());
    let refused = cp(&pair, &remote(&path(&longest)), &missing).output().unwrap();
    assert_eq!(refused.status.code(), Some(222));
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        message.contains("missing/ cannot be written: not a directory"),
        "{message}"
    );
}

#[test]
fn an_interrupted_download_leaves_nothing() {
    let pair = Pair::start();
    let (source, to) = (pair.dir().join("source"), pair.dir().join("to"));
    fs::create_dir(&to).unwrap();
    fs::write(&source, vec![7; 512 << 20]).unwrap();
    let mut command = cp(&pair, &remote(&source), to.join("file").to_str().unwrap());
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    eventually("the download has begun", || fs::read_dir(&to).unwrap().count() == 1);
    pair::send_signal(child.id(), Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(fs::read_dir(&to).unwrap().count(), 0);
}
