//! Git over `podbridge ssh` and the local link: git does with a pod what it does with a machine behind ssh.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use podbridge_tests::pair::{self, Pair, binary, eventually};
use rustix::process::Signal;
use tempfile::TempDir;

/// A pair, and a local repository with a commit on `main`.
struct Testbed {
    pair: Pair,
    /// Directory of the local repository.
    local: TempDir,
}

impl Testbed {
    fn new() -> Self {
        Self::with_pair(Pair::start())
    }

    fn with_pair(pair: Pair) -> Self {
        let testbed = Self {
            pair,
            local: tempfile::tempdir().unwrap(),
        };
        testbed.succeed(&["init", "--quiet", "--initial-branch", "main", "."]);
        testbed.commit("one");
        testbed
    }

    /// Returns a path on the pod's side, which is this machine too.
    fn remote_path(&self, name: &str) -> PathBuf {
        self.pair.dir().join(name)
    }

    fn url(&self, name: &str) -> String {
        format!("x:{}", self.remote_path(name).display())
    }

    fn cache(&self) -> PathBuf {
        self.remote_path("cache")
    }

    /// Returns git in the local repository, without the user's settings.
    fn git(&self, arguments: &[&str]) -> Command {
        let mut command = self.pair.command(Path::new("git"));
        command
            .args(arguments)
            .current_dir(self.local.path())
            .env("GIT_SSH_COMMAND", format!("{} ssh", binary("podbridge").display()))
            .env("PODBRIDGE_GIT_CACHE", self.cache())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("LC_ALL", "C")
            .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_NAME"), "Tester")))
            .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_EMAIL"), "tester@example.com")));
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.git(arguments).output().unwrap()
    }

    /// Runs git, which must succeed; returns its stdout.
    fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "git {arguments:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Runs git in a repository of the pod; it must succeed.
    fn succeed_remotely(&self, name: &str, arguments: &[&str]) -> String {
        let path = self.remote_path(name);
        self.succeed(&[&["-C", path.to_str().unwrap()], arguments].concat())
    }

    /// Commits a file with this text; returns the id of the commit.
    fn commit(&self, text: &str) -> String {
        fs::write(self.local.path().join("file"), text).unwrap();
        self.succeed(&["add", "."]);
        self.succeed(&["commit", "--quiet", "--message", text]);
        self.succeed(&["rev-parse", "HEAD"])
    }

    /// Commits a file that cannot be compressed; returns the id of the commit.
    fn commit_random(&self, bytes: usize) -> String {
        let mut random = vec![0; bytes];
        fs::File::open("/dev/urandom").unwrap().read_exact(&mut random).unwrap();
        fs::write(self.local.path().join("random"), random).unwrap();
        self.commit("random")
    }
}

/// Returns stderr.
fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_push_makes_a_repository_and_checks_its_branch_out() {
    let testbed = Testbed::new();
    let one = testbed.succeed(&["rev-parse", "HEAD"]);
    let push = testbed.run(&["push", &testbed.url("new/src"), "main"]);
    assert!(push.status.success(), "{}", stderr(&push));
    // Git prints its usual line, and no hint about the branch that is checked out.
    assert!(
        stderr(&push).contains("[new branch]      main -> main"),
        "{}",
        stderr(&push)
    );
    assert!(!stderr(&push).contains("hint:"), "{}", stderr(&push));
    let checked_out = || fs::read_to_string(testbed.remote_path("new/src/file")).unwrap();
    assert_eq!(checked_out(), "one");
    assert_eq!(
        testbed.succeed_remotely("new/src", &["status", "--short", "--branch"]),
        "## main"
    );
    // A push to the branch that is checked out, and to another one.
    testbed.commit("two");
    testbed.succeed(&["push", "--quiet", &testbed.url("new/src"), "main", "main:other"]);
    assert_eq!(checked_out(), "two");
    assert_eq!(testbed.succeed_remotely("new/src", &["rev-parse", "other~1"]), one);
    let names: Vec<_> = fs::read_dir(testbed.remote_path("new/src"))
        .unwrap()
        .flatten()
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(!testbed.remote_path("new/src/.git/podbridge-unborn").exists());
}

/// The first checkout left files, but neither an index nor a HEAD.
#[test]
fn an_unfinished_checkout_is_repeated() {
    let testbed = Testbed::new();
    let url = testbed.url("src");
    testbed.succeed(&["push", "--quiet", &url, "main"]);
    for (marker, status) in [("begun", "## main"), ("", "## No commits yet on none\n?? file")] {
        testbed.succeed_remotely("src", &["symbolic-ref", "HEAD", "refs/heads/none"]);
        fs::remove_file(testbed.remote_path("src/.git/index")).unwrap();
        fs::write(testbed.remote_path("src/file"), "half").unwrap();
        fs::write(testbed.remote_path("src/.git/podbridge-unborn"), marker).unwrap();
        let again = testbed.run(&["push", &url, "main"]);
        assert!(again.status.success(), "{}", stderr(&again));
        // An empty marker means that no checkout began, so the file is the user's. It stays, and a message says so.
        assert_eq!(
            stderr(&again).contains("is not checked out"),
            marker.is_empty(),
            "{}",
            stderr(&again)
        );
        assert_eq!(
            testbed.succeed_remotely("src", &["status", "--short", "--branch"]),
            status
        );
    }
}

/// zuul-jobs uses a mirror for the repositories of a build.
#[test]
fn a_mirror_arrives_and_any_branch_can_be_checked_out() {
    let testbed = Testbed::new();
    testbed.succeed(&["branch", "stable/1"]);
    testbed.succeed(&["branch", "gone"]);
    testbed.succeed(&["tag", "v1"]);
    testbed.commit("two");
    testbed.succeed(&["push", "--quiet", "--mirror", &testbed.url("src")]);
    testbed.succeed_remotely("src", &["checkout", "--quiet", "stable/1"]);
    assert_eq!(fs::read_to_string(testbed.remote_path("src/file")).unwrap(), "one");
    testbed.succeed(&["branch", "--delete", "--force", "--quiet", "gone"]);
    testbed.succeed(&["push", "--quiet", "--mirror", &testbed.url("src")]);
    assert_eq!(testbed.succeed_remotely("src", &["tag"]), "v1");
    let branches = testbed.succeed_remotely("src", &["branch", "--format=%(refname:short)"]);
    assert_eq!(branches, "main\nstable/1");
}

#[test]
fn bare_repositories_are_made_and_cloned() {
    let testbed = Testbed::new();
    testbed.commit("two");
    testbed.succeed(&["tag", "--annotate", "--message", "x", "v2"]);
    testbed.succeed(&["push", "--quiet", "--follow-tags", &testbed.url("bare.git"), "main"]);
    assert!(testbed.remote_path("bare.git/objects").is_dir());
    testbed.succeed(&["clone", "--quiet", &testbed.url("bare.git"), "whole"]);
    let count = |name| testbed.succeed(&["-C", name, "rev-list", "--count", "HEAD"]);
    assert_eq!(
        (count("whole"), testbed.succeed(&["-C", "whole", "describe"])),
        ("2".into(), "v2".into())
    );
    testbed.succeed(&["clone", "--quiet", "--depth", "1", &testbed.url("bare.git"), "shallow"]);
    assert_eq!(count("shallow"), "1");
    let three = testbed.commit("three");
    testbed.succeed(&["push", "--quiet", &testbed.url("bare.git"), "main"]);
    for (name, known) in [("whole", "3"), ("shallow", "2")] {
        testbed.succeed(&["-C", name, "pull", "--quiet", "--ff-only"]);
        assert_eq!(
            (testbed.succeed(&["-C", name, "rev-parse", "HEAD"]), count(name)),
            (three.clone(), known.into())
        );
    }
    // Without this setting git would use version 0 of its protocol.
    let mut traced = testbed.git(&["ls-remote", &testbed.url("bare.git")]);
    let traced = traced.env("GIT_TRACE_PACKET", "1").output().unwrap();
    assert!(stderr(&traced).contains("version 2"), "{}", stderr(&traced));
    // A push into an empty directory behind a link keeps the link, as it would keep a mount point.
    fs::create_dir(testbed.remote_path("empty")).unwrap();
    std::os::unix::fs::symlink("empty", testbed.remote_path("link.git")).unwrap();
    testbed.succeed(&["push", "--quiet", &testbed.url("link.git"), "main"]);
    assert_eq!(testbed.succeed_remotely("empty", &["rev-parse", "main"]), three);
    assert!(
        fs::symlink_metadata(testbed.remote_path("link.git"))
            .unwrap()
            .is_symlink()
    );
    let archive = testbed.run(&["archive", "--remote", &testbed.url("bare.git"), "v2", "file"]);
    assert!(
        archive.stdout.windows(3).any(|word| word == b"two"),
        "{}",
        stderr(&archive)
    );
}

#[test]
fn pushes_and_fetches_that_git_refuses_fail_with_gits_message() {
    let testbed = Testbed::new();
    let url = testbed.url("src");
    testbed.succeed(&["push", "--quiet", &url, "main"]);
    let refused = |arguments: &[&str], code, sentence: &str| {
        let output = testbed.run(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(sentence), "{arguments:?}: {}", stderr(&output));
    };
    testbed.succeed(&["commit", "--quiet", "--amend", "--message", "another one"]);
    refused(&["push", &url, "main"], 1, "(non-fast-forward)");
    testbed.succeed(&["push", "--quiet", "--force", &url, "main"]);
    // The working copy has changes.
    fs::write(testbed.remote_path("src/file"), "changed").unwrap();
    testbed.commit("two");
    refused(&["push", &url, "main"], 1, "Working directory has unstaged changes");
    assert_eq!(fs::read_to_string(testbed.remote_path("src/file")).unwrap(), "changed");
    // A hook refuses.
    let hook = testbed.remote_path("src/.git/hooks/pre-receive");
    fs::create_dir_all(hook.parent().unwrap()).unwrap();
    fs::write(&hook, "#!/bin/sh\necho not today >&2; exit 1\n").unwrap();
    std::process::Command::new("chmod")
        .arg("755")
        .arg(&hook)
        .status()
        .unwrap();
    refused(&["push", &url, "main:other"], 1, "remote: not today");
    // The path is no repository.
    refused(
        &["fetch", &testbed.url("nothing")],
        128,
        "does not appear to be a git repository",
    );
    assert!(!testbed.remote_path("nothing").exists(), "only a push makes one");
    fs::create_dir(testbed.remote_path("full")).unwrap();
    fs::write(testbed.remote_path("full/x"), "").unwrap();
    refused(
        &["push", &testbed.url("full"), "main"],
        128,
        "does not appear to be a git repository",
    );
    fs::write(testbed.remote_path("occupied"), "").unwrap();
    refused(&["push", &testbed.url("occupied/below"), "main"], 128, "cannot be made");
    assert_eq!(fs::read_dir(testbed.remote_path("full")).unwrap().count(), 1);
}

/// The cache is searched for the longest end of the path, and may belong to another user.
#[test]
fn objects_of_a_cached_repository_are_not_sent() {
    const CACHED: usize = 5 << 20;
    let (pair, proxy) = Pair::with_proxy(0);
    let testbed = Testbed::with_pair(pair);
    testbed.commit_random(CACHED);
    let cached = testbed.remote_path("cache/example.org/nova");
    testbed.succeed(&["clone", "--quiet", "--no-local", ".", cached.to_str().unwrap()]);
    testbed.commit("new");
    let before = proxy.passed();
    testbed.succeed(&["push", "--quiet", &testbed.url("src/example.org/nova"), "main"]);
    let moved = proxy.passed() - before;
    assert!(moved < 100_000, "{moved} bytes");
    assert_eq!(
        fs::read_to_string(testbed.remote_path("src/example.org/nova/file")).unwrap(),
        "new"
    );
    testbed.succeed_remotely("src/example.org/nova", &["fsck", "--full"]);
    // A repository that is not in the cache is sent whole.
    testbed.succeed(&["push", "--quiet", &testbed.url("src/another"), "main"]);
    assert!(proxy.passed() - before > CACHED as u64, "the proxy counts");
}

#[test]
fn fifty_pushes_at_once_delay_no_command() {
    let testbed = Testbed::new();
    testbed.commit_random(1 << 20);
    let head = testbed.succeed(&["rev-parse", "HEAD"]);
    // Ten of the pushes go to one repository that does not exist yet.
    let names: Vec<String> = (0..50)
        .map(|i| format!("many/{}", if i < 10 { 0 } else { i }))
        .collect();
    let pushes = names.iter().enumerate().map(|(i, name)| {
        let branch = format!("main:branch-{i}");
        let mut push = testbed.git(&["push", "--quiet", &testbed.url(name), &branch]);
        push.stderr(Stdio::piped()).spawn().unwrap()
    });
    let mut pushes: Vec<_> = pushes.collect();
    assert!(testbed.pair.exec(&["true"]).status().unwrap().success());
    let running = pushes
        .iter_mut()
        .filter_map(|push| push.try_wait().unwrap().is_none().then_some(()));
    assert!(running.count() > 0, "the command waited for all pushes");
    for push in pushes {
        let output = push.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
    }
    for (i, name) in names.iter().enumerate() {
        assert_eq!(
            testbed.succeed_remotely(name, &["rev-parse", &format!("branch-{i}")]),
            head
        );
    }
}

#[test]
fn a_push_that_is_killed_leaves_the_repository_whole() {
    let testbed = Testbed::new();
    let url = testbed.url("src");
    testbed.succeed(&["push", "--quiet", &url, "main"]);
    let one = testbed.succeed(&["rev-parse", "HEAD"]);
    let big = testbed.commit_random(8 << 20);
    // This ssh passes on half of the push and then nothing until it is killed.
    let (ssh, pid) = (testbed.remote_path("ssh"), testbed.remote_path("pid"));
    let script = format!(
        "#!/bin/sh\n{{ head -c 4000000; cat >/dev/null; }} | sh -c 'echo $$ >{pid}; exec {podbridge} ssh \"$@\"' sh \"$@\"\n",
        pid = pid.display(),
        podbridge = binary("podbridge").display()
    );
    fs::write(&ssh, script).unwrap();
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).unwrap();
    let objects = testbed.remote_path("src/.git/objects");
    let incoming = || {
        let entries = fs::read_dir(&objects).unwrap().flatten();
        let mut names = entries.map(|entry| entry.file_name().into_string().unwrap());
        names.any(|name| name.contains("incoming"))
    };
    let mut push = testbed.git(&["push", "--quiet", &url, "main"]);
    push.env("GIT_SSH_COMMAND", &ssh).env("GIT_SSH_VARIANT", "ssh");
    let push = push.stderr(Stdio::piped()).spawn().unwrap();
    eventually("objects arrive", incoming);
    pair::send_signal(fs::read_to_string(&pid).unwrap().trim().parse().unwrap(), Signal::KILL);
    let killed = push.wait_with_output().unwrap();
    assert!(!killed.status.success(), "{}", stderr(&killed));
    eventually("nothing of the push runs", || testbed.pair.commands().is_empty());
    testbed.succeed_remotely("src", &["fsck", "--full"]);
    assert_eq!(testbed.succeed_remotely("src", &["rev-parse", "main"]), one);
    testbed.succeed(&["push", "--quiet", &url, "main"]);
    assert_eq!(testbed.succeed_remotely("src", &["rev-parse", "main"]), big);
    testbed.succeed_remotely("src", &["fsck", "--full"]);
}

#[test]
fn a_push_and_a_clone_survive_cuts_of_the_link() {
    let (pair, proxy) = Pair::with_proxy(fastrand::u64(..));
    let testbed = Testbed::with_pair(pair);
    let head = testbed.commit_random(8 << 20);
    proxy.allow_cuts(20);
    testbed.succeed(&["push", "--quiet", &testbed.url("src"), "main"]);
    testbed.succeed(&["clone", "--quiet", &testbed.url("src"), "back"]);
    assert!(proxy.stop_cutting() > 0, "no link was cut");
    assert_eq!(testbed.succeed(&["-C", "back", "rev-parse", "HEAD"]), head);
    testbed.succeed(&["-C", "back", "fsck", "--full"]);
}

#[test]
fn podbridge_git_needs_no_settings() {
    let testbed = Testbed::new();
    let own = |arguments: &[&str]| {
        let mut command = testbed.pair.podbridge(arguments);
        let git = testbed.git(&[]);
        let settings = git.get_envs().filter(|(name, _)| *name != "GIT_SSH_COMMAND");
        command.envs(settings.filter_map(|(name, value)| Some((name, value?))));
        command.current_dir(testbed.local.path()).output().unwrap()
    };
    let pushed = own(&["git", "push", "--quiet", &testbed.url("src"), "main"]);
    assert!(pushed.status.success(), "{}", stderr(&pushed));
    let head = testbed.succeed(&["rev-parse", "HEAD"]);
    let listed = own(&[
        "git",
        "--git-cache",
        "/x",
        "--",
        "-c",
        "core.pager=",
        "ls-remote",
        &testbed.url("src"),
        "HEAD",
    ]);
    assert_eq!(
        String::from_utf8_lossy(&listed.stdout),
        format!("{head}\tHEAD\n"),
        "{}",
        stderr(&listed)
    );
    assert_eq!(
        own(&["git", "rev-parse", "--verify", "--quiet", "none"]).status.code(),
        Some(1)
    );
}

/// Runs the agent's git command without git in PATH, as in an image without git, and then with a git beside the agent.
#[test]
fn without_git_the_message_says_where_it_may_be() {
    let testbed = Testbed::new();
    let agent = testbed.remote_path("beside/podbridge-agent");
    fs::create_dir(agent.parent().unwrap()).unwrap();
    // This process must not write the copy: another test could fork meanwhile, its child would inherit the open file, and a program that is
    // open for writing cannot be run.
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
            .arg(testbed.local.path())
            .env("PATH", "/no/such");
        command.stdin(Stdio::null()).output().unwrap()
    };
    let missing = run();
    let sentence = stderr(&missing);
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

/// The words of a command that is not git's go to a shell, as with ssh.
#[test]
fn other_commands_run_in_a_shell() {
    let testbed = Testbed::new();
    let ssh = |arguments: &[&str]| {
        testbed
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
