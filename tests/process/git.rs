//! A real git, over `podbridge ssh` and the local link: what it does with a machine behind ssh it does with a pod.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use podbridge_tests::pair::{self, Pair, binary, eventually};
use rustix::process::Signal;
use tempfile::TempDir;

/// A pair, and a repository here with a commit on `main`.
struct Place {
    pair: Pair,
    here: TempDir,
}

impl Place {
    fn new() -> Self {
        Self::of(Pair::start())
    }

    fn of(pair: Pair) -> Self {
        let place = Self {
            pair,
            here: tempfile::tempdir().unwrap(),
        };
        place.done(&["init", "--quiet", "--initial-branch", "main", "."]);
        place.commit("one");
        place
    }

    /// On the pod's side, which is this machine.
    fn there(&self, name: &str) -> PathBuf {
        self.pair.dir().join(name)
    }

    fn url(&self, name: &str) -> String {
        format!("x:{}", self.there(name).display())
    }

    fn cache(&self) -> PathBuf {
        self.there("cache")
    }

    /// A git here, with nobody's settings.
    fn git(&self, arguments: &[&str]) -> Command {
        let mut command = self.pair.command(Path::new("git"));
        command
            .args(arguments)
            .current_dir(self.here.path())
            .env("GIT_SSH_COMMAND", format!("{} ssh", binary("podbridge").display()))
            .env("PODBRIDGE_GIT_CACHE", self.cache())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("LC_ALL", "C")
            .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_NAME"), "Tester")))
            .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_EMAIL"), "tester@example.com")));
        command
    }

    fn ran(&self, arguments: &[&str]) -> Output {
        self.git(arguments).output().unwrap()
    }

    /// What it prints when it does well.
    fn done(&self, arguments: &[&str]) -> String {
        let output = self.ran(arguments);
        assert!(output.status.success(), "git {arguments:?}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// The same with a repository of the pod.
    fn done_there(&self, name: &str, arguments: &[&str]) -> String {
        let path = self.there(name);
        self.done(&[&["-C", path.to_str().unwrap()], arguments].concat())
    }

    fn commit(&self, text: &str) -> String {
        fs::write(self.here.path().join("file"), text).unwrap();
        self.done(&["add", "."]);
        self.done(&["commit", "--quiet", "--message", text]);
        self.done(&["rev-parse", "HEAD"])
    }

    /// A file that cannot be compressed.
    fn commit_random(&self, bytes: usize) -> String {
        let mut random = vec![0; bytes];
        fs::File::open("/dev/urandom").unwrap().read_exact(&mut random).unwrap();
        fs::write(self.here.path().join("random"), random).unwrap();
        self.commit("random")
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_repository_is_made_shown_and_kept() {
    let place = Place::new();
    let one = place.done(&["rev-parse", "HEAD"]);
    let push = place.ran(&["push", &place.url("new/src"), "main"]);
    assert!(push.status.success(), "{}", said(&push));
    // Not a word of a hint, and git's own of success.
    assert!(
        said(&push).contains("[new branch]      main -> main"),
        "{}",
        said(&push)
    );
    assert!(!said(&push).contains("hint:"), "{}", said(&push));
    let shown = || fs::read_to_string(place.there("new/src/file")).unwrap();
    assert_eq!(shown(), "one");
    assert_eq!(
        place.done_there("new/src", &["status", "--short", "--branch"]),
        "## main"
    );
    // The branch that is checked out, and one that is not.
    place.commit("two");
    place.done(&["push", "--quiet", &place.url("new/src"), "main", "main:other"]);
    assert_eq!(shown(), "two");
    assert_eq!(place.done_there("new/src", &["rev-parse", "other~1"]), one);
    let names: Vec<_> = fs::read_dir(place.there("new/src")).unwrap().flatten().collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(!place.there("new/src/.git/podbridge-unborn").exists());
}

/// It left files, and neither an index nor a HEAD.
#[test]
fn a_checkout_that_was_cut_short_is_made_again() {
    let place = Place::new();
    let url = place.url("src");
    place.done(&["push", "--quiet", &url, "main"]);
    for (marker, status) in [("begun", "## main"), ("", "## No commits yet on none\n?? file")] {
        place.done_there("src", &["symbolic-ref", "HEAD", "refs/heads/none"]);
        fs::remove_file(place.there("src/.git/index")).unwrap();
        fs::write(place.there("src/file"), "half").unwrap();
        fs::write(place.there("src/.git/podbridge-unborn"), marker).unwrap();
        let again = place.ran(&["push", &url, "main"]);
        assert!(again.status.success(), "{}", said(&again));
        // What is not ours stays, and it is said why.
        assert_eq!(
            said(&again).contains("is not checked out"),
            marker.is_empty(),
            "{}",
            said(&again)
        );
        assert_eq!(place.done_there("src", &["status", "--short", "--branch"]), status);
    }
}

/// What zuul-jobs does with the repositories of a build.
#[test]
fn a_mirror_arrives_and_any_branch_can_be_checked_out() {
    let place = Place::new();
    place.done(&["branch", "stable/1"]);
    place.done(&["branch", "gone"]);
    place.done(&["tag", "v1"]);
    place.commit("two");
    place.done(&["push", "--quiet", "--mirror", &place.url("src")]);
    place.done_there("src", &["checkout", "--quiet", "stable/1"]);
    assert_eq!(fs::read_to_string(place.there("src/file")).unwrap(), "one");
    place.done(&["branch", "--delete", "--force", "--quiet", "gone"]);
    place.done(&["push", "--quiet", "--mirror", &place.url("src")]);
    assert_eq!(place.done_there("src", &["tag"]), "v1");
    let branches = place.done_there("src", &["branch", "--format=%(refname:short)"]);
    assert_eq!(branches, "main\nstable/1");
}

#[test]
fn bare_repositories_are_made_and_cloned() {
    let place = Place::new();
    place.commit("two");
    place.done(&["tag", "--annotate", "--message", "x", "v2"]);
    place.done(&["push", "--quiet", "--follow-tags", &place.url("bare.git"), "main"]);
    assert!(place.there("bare.git/objects").is_dir());
    place.done(&["clone", "--quiet", &place.url("bare.git"), "whole"]);
    let count = |name| place.done(&["-C", name, "rev-list", "--count", "HEAD"]);
    assert_eq!(
        (count("whole"), place.done(&["-C", "whole", "describe"])),
        ("2".into(), "v2".into())
    );
    place.done(&["clone", "--quiet", "--depth", "1", &place.url("bare.git"), "shallow"]);
    assert_eq!(count("shallow"), "1");
    let three = place.commit("three");
    place.done(&["push", "--quiet", &place.url("bare.git"), "main"]);
    for (name, known) in [("whole", "3"), ("shallow", "2")] {
        place.done(&["-C", name, "pull", "--quiet", "--ff-only"]);
        assert_eq!(
            (place.done(&["-C", name, "rev-parse", "HEAD"]), count(name)),
            (three.clone(), known.into())
        );
    }
    // Git without a word of its own about the version of its protocol would use 0.
    let mut traced = place.git(&["ls-remote", &place.url("bare.git")]);
    let traced = traced.env("GIT_TRACE_PACKET", "1").output().unwrap();
    assert!(said(&traced).contains("version 2"), "{}", said(&traced));
    // Into an empty directory by a link, as into one that is a mount point: it stays what it is.
    fs::create_dir(place.there("empty")).unwrap();
    std::os::unix::fs::symlink("empty", place.there("link.git")).unwrap();
    place.done(&["push", "--quiet", &place.url("link.git"), "main"]);
    assert_eq!(place.done_there("empty", &["rev-parse", "main"]), three);
    assert!(fs::symlink_metadata(place.there("link.git")).unwrap().is_symlink());
    let archive = place.ran(&["archive", "--remote", &place.url("bare.git"), "v2", "file"]);
    assert!(
        archive.stdout.windows(3).any(|word| word == b"two"),
        "{}",
        said(&archive)
    );
}

#[test]
fn what_git_refuses_is_refused() {
    let place = Place::new();
    let url = place.url("src");
    place.done(&["push", "--quiet", &url, "main"]);
    let refused = |arguments: &[&str], code, sentence: &str| {
        let output = place.ran(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains(sentence), "{arguments:?}: {}", said(&output));
    };
    place.done(&["commit", "--quiet", "--amend", "--message", "another one"]);
    refused(&["push", &url, "main"], 1, "(non-fast-forward)");
    place.done(&["push", "--quiet", "--force", &url, "main"]);
    // A changed working copy.
    fs::write(place.there("src/file"), "changed").unwrap();
    place.commit("two");
    refused(&["push", &url, "main"], 1, "Working directory has unstaged changes");
    assert_eq!(fs::read_to_string(place.there("src/file")).unwrap(), "changed");
    // By a hook.
    let hook = place.there("src/.git/hooks/pre-receive");
    fs::create_dir_all(hook.parent().unwrap()).unwrap();
    fs::write(&hook, "#!/bin/sh\necho not today >&2; exit 1\n").unwrap();
    std::process::Command::new("chmod")
        .arg("755")
        .arg(&hook)
        .status()
        .unwrap();
    refused(&["push", &url, "main:other"], 1, "remote: not today");
    // What is no repository.
    refused(
        &["fetch", &place.url("nothing")],
        128,
        "does not appear to be a git repository",
    );
    assert!(!place.there("nothing").exists(), "only a push makes one");
    fs::create_dir(place.there("full")).unwrap();
    fs::write(place.there("full/x"), "").unwrap();
    refused(
        &["push", &place.url("full"), "main"],
        128,
        "does not appear to be a git repository",
    );
    fs::write(place.there("occupied"), "").unwrap();
    refused(&["push", &place.url("occupied/below"), "main"], 128, "cannot be made");
    assert_eq!(fs::read_dir(place.there("full")).unwrap().count(), 1);
}

/// The longest end of its path names it, whoever owns it.
#[test]
fn a_cached_repository_is_not_sent_again() {
    const CACHED: usize = 5 << 20;
    let (pair, proxy) = Pair::with_proxy(0);
    let place = Place::of(pair);
    place.commit_random(CACHED);
    let cached = place.there("cache/example.org/nova");
    place.done(&["clone", "--quiet", "--no-local", ".", cached.to_str().unwrap()]);
    place.commit("new");
    let before = proxy.passed();
    place.done(&["push", "--quiet", &place.url("src/example.org/nova"), "main"]);
    let moved = proxy.passed() - before;
    assert!(moved < 100_000, "{moved} bytes");
    assert_eq!(
        fs::read_to_string(place.there("src/example.org/nova/file")).unwrap(),
        "new"
    );
    place.done_there("src/example.org/nova", &["fsck", "--full"]);
    // Without it, all of it is.
    place.done(&["push", "--quiet", &place.url("src/another"), "main"]);
    assert!(proxy.passed() - before > CACHED as u64, "the proxy counts");
}

#[test]
fn fifty_pushes_at_once_hold_up_no_command() {
    let place = Place::new();
    place.commit_random(1 << 20);
    let head = place.done(&["rev-parse", "HEAD"]);
    // Of which ten go to one place that is not there yet.
    let names: Vec<String> = (0..50)
        .map(|i| format!("many/{}", if i < 10 { 0 } else { i }))
        .collect();
    let pushes = names.iter().enumerate().map(|(i, name)| {
        let branch = format!("main:branch-{i}");
        let mut push = place.git(&["push", "--quiet", &place.url(name), &branch]);
        push.stderr(Stdio::piped()).spawn().unwrap()
    });
    let mut pushes: Vec<_> = pushes.collect();
    assert!(place.pair.exec(&["true"]).status().unwrap().success());
    let running = pushes
        .iter_mut()
        .filter_map(|push| push.try_wait().unwrap().is_none().then_some(()));
    assert!(running.count() > 0, "the command waited for all pushes");
    for push in pushes {
        let output = push.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
    }
    for (i, name) in names.iter().enumerate() {
        assert_eq!(place.done_there(name, &["rev-parse", &format!("branch-{i}")]), head);
    }
}

#[test]
fn a_push_that_is_killed_leaves_the_repository_whole() {
    let place = Place::new();
    let url = place.url("src");
    place.done(&["push", "--quiet", &url, "main"]);
    let one = place.done(&["rev-parse", "HEAD"]);
    let big = place.commit_random(8 << 20);
    // An ssh that passes on half of it, and then nothing until it is killed.
    let (ssh, pid) = (place.there("ssh"), place.there("pid"));
    let script = format!(
        "#!/bin/sh\n{{ head -c 4000000; cat >/dev/null; }} | sh -c 'echo $$ >{pid}; exec {podbridge} ssh \"$@\"' sh \"$@\"\n",
        pid = pid.display(),
        podbridge = binary("podbridge").display()
    );
    fs::write(&ssh, script).unwrap();
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).unwrap();
    let objects = place.there("src/.git/objects");
    let incoming = || {
        let entries = fs::read_dir(&objects).unwrap().flatten();
        let mut names = entries.map(|entry| entry.file_name().into_string().unwrap());
        names.any(|name| name.contains("incoming"))
    };
    let mut push = place.git(&["push", "--quiet", &url, "main"]);
    push.env("GIT_SSH_COMMAND", &ssh).env("GIT_SSH_VARIANT", "ssh");
    let push = push.stderr(Stdio::piped()).spawn().unwrap();
    eventually("objects arrive", incoming);
    pair::kill(fs::read_to_string(&pid).unwrap().trim().parse().unwrap(), Signal::KILL);
    let killed = push.wait_with_output().unwrap();
    assert!(!killed.status.success(), "{}", said(&killed));
    eventually("nothing of the push runs", || place.pair.commands().is_empty());
    place.done_there("src", &["fsck", "--full"]);
    assert_eq!(place.done_there("src", &["rev-parse", "main"]), one);
    place.done(&["push", "--quiet", &url, "main"]);
    assert_eq!(place.done_there("src", &["rev-parse", "main"]), big);
    place.done_there("src", &["fsck", "--full"]);
}

#[test]
fn a_push_and_a_clone_go_on_over_a_link_that_is_cut() {
    let (pair, proxy) = Pair::with_proxy(fastrand::u64(..));
    let place = Place::of(pair);
    let head = place.commit_random(8 << 20);
    proxy.cut(20);
    place.done(&["push", "--quiet", &place.url("src"), "main"]);
    place.done(&["clone", "--quiet", &place.url("src"), "back"]);
    assert!(proxy.calm() > 0, "no link was cut");
    assert_eq!(place.done(&["-C", "back", "rev-parse", "HEAD"]), head);
    place.done(&["-C", "back", "fsck", "--full"]);
}

#[test]
fn podbridge_git_needs_no_settings() {
    let place = Place::new();
    let own = |arguments: &[&str]| {
        let mut command = place.pair.podbridge(arguments);
        let git = place.git(&[]);
        let settings = git.get_envs().filter(|(name, _)| *name != "GIT_SSH_COMMAND");
        command.envs(settings.filter_map(|(name, value)| Some((name, value?))));
        command.current_dir(place.here.path()).output().unwrap()
    };
    let pushed = own(&["git", "push", "--quiet", &place.url("src"), "main"]);
    assert!(pushed.status.success(), "{}", said(&pushed));
    let head = place.done(&["rev-parse", "HEAD"]);
    let listed = own(&[
        "git",
        "--git-cache",
        "/x",
        "--",
        "-c",
        "core.pager=",
        "ls-remote",
        &place.url("src"),
        "HEAD",
    ]);
    assert_eq!(
        String::from_utf8_lossy(&listed.stdout),
        format!("{head}\tHEAD\n"),
        "{}",
        said(&listed)
    );
    assert_eq!(
        own(&["git", "rev-parse", "--verify", "--quiet", "none"]).status.code(),
        Some(1)
    );
}

/// As the shell of a pod with an image that has no git, and where it was put beside the agent.
#[test]
fn without_git_a_sentence_says_where_it_may_be() {
    let place = Place::new();
    let agent = place.there("beside/podbridge-agent");
    fs::create_dir(agent.parent().unwrap()).unwrap();
    // Not by this process: what another test starts meanwhile would hold the copy open for writing, and it could not be run.
    let copied = Command::new("cp")
        .arg(binary("podbridge-agent"))
        .arg(&agent)
        .status()
        .unwrap();
    assert!(copied.success());
    let run = || {
        let mut command = Command::new(&agent);
        command
            .args(["git", "upload-pack"])
            .arg(place.here.path())
            .env("PATH", "/no/such");
        command.stdin(Stdio::null()).output().unwrap()
    };
    let missing = run();
    let sentence = said(&missing);
    assert_eq!(missing.status.code(), Some(127));
    assert!(
        sentence.contains("no git") && sentence.contains(agent.parent().unwrap().to_str().unwrap()),
        "{sentence}"
    );
    let found = Command::new("sh").args(["-c", "command -v git"]).output().unwrap();
    let found = String::from_utf8(found.stdout).unwrap();
    std::os::unix::fs::symlink(found.trim(), agent.with_file_name("git")).unwrap();
    assert!(String::from_utf8_lossy(&run().stdout).contains("refs/heads/main"));
}

/// What is no git's goes to a shell, as with ssh.
#[test]
fn other_commands_are_the_shells() {
    let place = Place::new();
    let ssh = |arguments: &[&str]| {
        place
            .pair
            .podbridge(&[&["ssh"][..], arguments].concat())
            .output()
            .unwrap()
    };
    let output = ssh(&[
        "-p",
        "22",
        "-oBatchMode=yes",
        "-T",
        "x",
        "echo $((1 + 1)); echo",
        "-n",
        "err",
        ">&2; exit 7",
    ]);
    assert_eq!(
        (output.status.code(), &output.stdout[..], &output.stderr[..]),
        (Some(7), &b"2\n"[..], &b"err"[..])
    );
    if rustix::process::geteuid().is_root() {
        for arguments in [["nobody@x", "id -u"].as_slice(), &["-l", "nobody", "x", "id", "-u"]] {
            assert_eq!(ssh(arguments).stdout, b"65534\n");
        }
    }
}
