//! Single files by `podbridge cp`: over links that are cut, sparse ones, and what must not be left or half-written.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use fastrand::Rng;
use podbridge_tests::pair::{self, Pair, eventually};
use rustix::process::Signal;

use crate::puts::{ask, file};

const MIB: u64 = 1 << 20;
/// Longer than what windows hold, and than a client may have on its way.
const SIZE: u64 = 24 * MIB;
/// Bytes that have passed when the link is cut.
const CUTS: [u64; 4] = [3 * MIB, 8 * MIB, 14 * MIB, 20 * MIB];

/// How the content is handed to the bridge.
#[derive(Debug, Clone, Copy)]
enum By {
    Descriptor,
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

fn succeeds(mut command: Command) -> Output {
    let output = command.stderr(Stdio::piped()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

fn upload(pair: &Pair, by: By, content: &[u8], to: &Path) {
    let local = pair.dir().join("local");
    fs::write(&local, content).unwrap();
    let command = match by {
        By::Descriptor => cp(pair, local.to_str().unwrap(), &remote(to)),
        By::Frames => {
            let mut command = cp(pair, "-", &remote(to));
            command.stdin(File::open(&local).unwrap());
            command
        }
    };
    succeeds(command);
}

fn download(pair: &Pair, by: By, from: &Path) -> Vec<u8> {
    let local = pair.dir().join("local");
    match by {
        By::Descriptor => {
            succeeds(cp(pair, &remote(from), local.to_str().unwrap()));
            fs::read(&local).unwrap()
        }
        By::Frames => succeeds(cp(pair, &remote(from), "-")).stdout,
    }
}

fn temporaries(directory: &Path) -> Vec<PathBuf> {
    let paths = fs::read_dir(directory).unwrap().flatten().map(|entry| entry.path());
    let hidden = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().contains("podbridge-");
    paths.filter(hidden).collect()
}

/// An empty directory on the pod's side.
fn there(pair: &Pair) -> PathBuf {
    let path = pair.dir().join("there");
    fs::create_dir(&path).unwrap();
    path
}

fn goes_on(by: By, up: bool) {
    let (pair, proxy) = Pair::with_proxy(1);
    let path = there(&pair).join("file");
    let content = random(&mut Rng::with_seed(1), SIZE);
    // The links are up, and what they cost is behind us.
    fs::write(&path, "x").unwrap();
    download(&pair, By::Frames, &path);
    let begun = proxy.passed();
    proxy.cut_after(&CUTS);
    if up {
        upload(&pair, by, &content, &path);
    } else {
        fs::write(&path, &content).unwrap();
        assert!(download(&pair, by, &path) == content, "{by:?}");
    }
    assert!(fs::read(&path).unwrap() == content, "{by:?}");
    assert_eq!(proxy.calm(), CUTS.len() as u64, "all cuts were made");
    let passed = proxy.passed() - begun;
    // From the start again would be 45 MiB more; what was on its way at a cut is lost.
    let most = SIZE + CUTS.len() as u64 * 2 * MIB;
    assert!(
        (SIZE..most).contains(&passed),
        "{by:?}: {passed} bytes passed for {SIZE}"
    );
    assert!(temporaries(path.parent().unwrap()).is_empty());
}

#[test]
fn a_put_goes_on_where_its_link_was_cut() {
    goes_on(By::Descriptor, true);
    goes_on(By::Frames, true);
}

#[test]
fn a_get_goes_on_where_its_link_was_cut() {
    goes_on(By::Descriptor, false);
    goes_on(By::Frames, false);
}

/// In the first bytes, in the greeting, in answers: wherever a link can break.
#[test]
fn whatever_is_cut_the_files_are_equal() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = Rng::with_seed(seed);
    let (pair, proxy) = Pair::with_proxy(seed);
    let path = there(&pair).join("file");
    for round in 0..24 {
        let size = rng.u64(0..4 * MIB);
        let content = random(&mut rng, size);
        let by = [By::Descriptor, By::Frames][round % 2];
        proxy.cut(rng.u64(1..=3));
        upload(&pair, by, &content, &path);
        proxy.calm();
        assert!(
            fs::read(&path).unwrap() == content,
            "seed {seed}, round {round}, {by:?}"
        );
        proxy.cut(rng.u64(1..=3));
        let got = download(&pair, by, &path);
        proxy.calm();
        assert!(got == content, "seed {seed}, round {round}, {by:?}");
    }
    eventually("nothing half-done is left", || {
        temporaries(path.parent().unwrap()).is_empty()
    });
}

/// A file that takes no room: `data` at these offsets, holes elsewhere.
fn sparse(path: &Path, size: u64, data: &[u64]) {
    let file = File::create(path).unwrap();
    for offset in data {
        file.write_all_at(&[7; 5000], *offset).unwrap();
    }
    file.set_len(size).unwrap();
}

#[test]
fn more_than_4_gib_of_holes_travel_both_ways() {
    let pair = Pair::start();
    let size = (4 << 30) + 100 * MIB + 1;
    let (local, there, back) = (
        pair.dir().join("local"),
        there(&pair).join("file"),
        pair.dir().join("back"),
    );
    let data = [MIB, (4 << 30) + 77, size - 5000];
    sparse(&local, size, &data);
    succeeds(cp(&pair, local.to_str().unwrap(), &remote(&there)));
    succeeds(cp(&pair, &remote(&there), back.to_str().unwrap()));
    for copy in [&there, &back] {
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
    // What is for a pipe has no holes.
    let mut child = cp(&pair, &remote(&there), "-").stdout(Stdio::piped()).spawn().unwrap();
    let length = std::io::copy(&mut child.stdout.take().unwrap(), &mut std::io::sink()).unwrap();
    assert_eq!(length, size);
    assert!(child.wait().unwrap().success());
}

/// A copy that takes a while, as both ends sum up its zeros, and has begun to write.
fn long_copy(pair: &Pair, directory: &Path, size: u64) -> Child {
    let local = pair.dir().join("long");
    sparse(&local, size, &[0]);
    let mut command = cp(pair, local.to_str().unwrap(), &remote(&directory.join("file")));
    let child = command.stderr(Stdio::null()).spawn().unwrap();
    eventually("the copy has begun", || !temporaries(directory).is_empty());
    child
}

#[test]
fn a_killed_client_leaves_nothing_in_the_pod() {
    let pair = Pair::start();
    let directory = there(&pair);
    let mut by_descriptor = long_copy(&pair, &directory, 1 << 40);
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
    let directory = there(&pair);
    let mut copy = long_copy(&pair, &directory, 8 << 30);
    let bridges = pair.bridges();
    assert_eq!(bridges.len(), 1);
    pair::kill(bridges[0], Signal::KILL);
    eventually("another one runs", || {
        pair.bridges().iter().any(|pid| *pid != bridges[0])
    });
    assert!(copy.wait().unwrap().success());
    let found = fs::metadata(directory.join("file")).unwrap();
    assert_eq!(found.len(), 8 << 30);
    assert!(found.blocks() * 512 < MIB);
}

#[test]
fn what_cannot_be_copied_is_said_in_one_sentence() {
    let pair = Pair::start();
    let directory = there(&pair);
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
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(236), "{from} to {to}: {said}");
        assert!(
            said.contains(words) && said.trim_end().lines().count() == 1,
            "{from} to {to}: {said}"
        );
    }
    let output = cp(&pair, directory.to_str().unwrap(), "x:/tmp/new").output().unwrap();
    assert_eq!(output.status.code(), Some(222));
    assert!(!pair.dir().join("new").exists());
    assert!(temporaries(&directory).is_empty());
    assert!(temporaries(pair.dir()).is_empty());

    // Empty ones, and those of the kernel, which say that they are.
    upload(&pair, By::Descriptor, b"", &directory.join("empty"));
    assert_eq!(download(&pair, By::Descriptor, &directory.join("empty")), b"");
    assert!(download(&pair, By::Descriptor, Path::new("/proc/version")).starts_with(b"Linux"));
}

/// What the command line does not ask for.
#[test]
fn a_root_and_the_disk_may_be_asked_for() {
    let pair = Pair::start();
    let directory = there(&pair);
    fs::create_dir(directory.join("sub")).unwrap();
    std::os::unix::fs::symlink("sub", directory.join("link")).unwrap();
    let content = file(&pair.dir().join("content"), &[7; 300_000]);
    let put = |path: &str| {
        let request = serde_json::json!({
            "v": 1, "op": "put", "requires": ["root", "sync"], "root": directory, "path": path, "sync": true, "mode": 0o600,
        });
        ask(&pair, &request.to_string(), &[content.try_clone().unwrap()]).1
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
    let (got, _) = ask(&pair, &request.to_string(), &[]);
    assert_eq!(got, [7; 300_000]);
    let request = serde_json::json!({"v": 1, "op": "stat", "root": directory, "path": "link/file"});
    assert!(ask(&pair, &request.to_string(), &[]).1.contains("symbolic link"));
}

#[test]
fn downloads_have_any_name_and_write_through_links() {
    let pair = Pair::start();
    let path = |name: &str| pair.dir().join(name);
    let longest = "n".repeat(255);
    fs::write(path(&longest), "content").unwrap();
    fs::create_dir(path("here")).unwrap();
    succeeds(cp(&pair, &remote(&path(&longest)), path("here").to_str().unwrap()));
    assert_eq!(fs::read(path("here").join(&longest)).unwrap(), b"content");
    // A link that leads nowhere yet.
    std::os::unix::fs::symlink("target", path("here/link")).unwrap();
    succeeds(cp(&pair, &remote(&path(&longest)), path("here/link").to_str().unwrap()));
    assert_eq!(fs::read_link(path("here/link")).unwrap(), Path::new("target"));
    assert_eq!(fs::read(path("here/target")).unwrap(), b"content");
    let missing = format!("{}/", path("missing").display());
    let refused = cp(&pair, &remote(&path(&longest)), &missing).output().unwrap();
    assert_eq!(refused.status.code(), Some(222));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("missing/ cannot be written: not a directory"), "{said}");
}

#[test]
fn an_interrupted_download_leaves_nothing() {
    let pair = Pair::start();
    let (source, to) = (pair.dir().join("source"), pair.dir().join("to"));
    fs::create_dir(&to).unwrap();
    fs::write(&source, vec![7; 512 << 20]).unwrap();
    let mut command = cp(&pair, &remote(&source), to.join("file").to_str().unwrap());
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    eventually("it has begun", || fs::read_dir(&to).unwrap().count() == 1);
    pair::kill(child.id(), Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(fs::read_dir(&to).unwrap().count(), 0);
}
