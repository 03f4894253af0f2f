//! Runs the scripts in directories of this host, with a program that answers as an agent does. What another user can plant has tests of its
//! own, which need root.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::*;

/// An agent as the scripts see it: a program that answers a probe, tells what it was run with, and shows its parent's environment.
const PROGRAM: &str = r#"#!/bin/sh
case " $* " in
  *" --probe "*) echo ANSWER;;
  *) echo "$@";;
esac
"#;

fn run(home: &Path, script: &str, arguments: &[&str], stdin: &[u8]) -> Output {
    use std::io::Write as _;
    let mut child = Command::new("sh")
        .args(["-c", script, "sh"])
        .args(arguments)
        .env("HOME", home)
        .env("PATH", "/usr/bin:/bin")
        .current_dir(home)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin).unwrap();
    child.wait_with_output().unwrap()
}

/// Directories of this host that a test does not touch.
const HOST_DIRECTORIES: &str = ":/tmp:/dev/shm:/var/tmp:/run:/dev:";

/// Runs `FIND` where only the home directory may be used; `settings` are its arguments `$4`, `$5`, `$6` and `$7`.
fn find(home: &Path, start: &str, settings: [&str; 4], known: &[&str]) -> String {
    let arguments = [&[start, "", "r1"][..], &settings, &[":"], known].concat();
    String::from_utf8(run(home, FIND, &arguments, b"").stdout).unwrap()
}

fn write_program(home: &Path, answer: &str, mode: u32) -> PathBuf {
    let uid = rustix::process::geteuid().as_raw();
    let own = home.join(format!(".podbridge-{uid}"));
    fs::create_dir_all(&own).unwrap();
    fs::set_permissions(&own, fs::Permissions::from_mode(0o700)).unwrap();
    let file = own.join("podbridge-agent-0.1.0-abcd.x");
    write_with_a_process(&file, PROGRAM.replace("ANSWER", answer).as_bytes());
    fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    file
}

/// Writes a file that is run soon. A descriptor of this process would go to the children that other tests start at the same moment, and
/// the kernel runs no file that somebody has open for writing.
fn write_with_a_process(file: &Path, content: &[u8]) {
    assert!(
        run(Path::new("/"), "cat >\"$1\"", &[file.to_str().unwrap()], content)
            .status
            .success()
    );
}

fn home() -> tempfile::TempDir {
    let home = tempfile::tempdir().unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).unwrap();
    home
}

/// Returns the list that has the home directory as a file system of its own, wherever it is.
fn own_mount(home: &Path) -> String {
    format!(":{}:", home.display())
}

#[test]
fn the_find_script_reports_a_usable_directory() {
    let home = home();
    let output = find(
        home.path(),
        "--start",
        [HOST_DIRECTORIES, "1", &own_mount(home.path()), ""],
        &["0.1.0-none:00"],
    );
    let report = FindReport::parse(output.strip_prefix("podbridge-find/1\n").unwrap());
    assert_eq!(report.machine.as_deref(), Some(std::env::consts::ARCH));
    let usable = report.directory.unwrap();
    assert_eq!(usable.base, home.path().to_str().unwrap());
    assert!(usable.binary.starts_with(&usable.base));
    assert_eq!(usable.binary, usable.socket);
    assert!(
        fs::read_dir(&usable.binary).unwrap().next().is_none(),
        "the probe is removed"
    );
}

/// Each row: directories that may not be used, free KiB that are needed, other mounted directories, more directories; which directory
/// is chosen. `~` is the home directory.
#[test]
fn the_find_script_goes_where_the_agent_has_space() {
    let home = home();
    fs::create_dir_all(home.path().join("volume/nested")).unwrap();
    let host = HOST_DIRECTORIES.trim_end_matches(':');
    let full = u64::MAX / 4096;
    for (skip, need, mounts, more, expected) in [
        ("", 1, ":~", "", Some("~")),
        ("", full, ":~", "", None),
        (":~", 1, "", "", None),
        (":~", 1, ":~/volume", "~/volume", Some("~/volume")),
        (":~", 1, ":~/volume", "~/volume/nested", Some("~/volume/nested")),
        (":~", 1, "", "~/volume/nested", None),
        (":~:~/volume", 1, "", "~/missing:~/volume", None),
        // The root has a limit, and no other file system is mounted.
        (":", 1, "", "~/volume", None),
        (":", 1, ":~/volume", "~/volume", Some("~/volume")),
    ] {
        let at_home = |text: &str| text.replace('~', home.path().to_str().unwrap());
        let skip = format!("{host}{}:", at_home(skip));
        let mounts = format!("{}:", at_home(mounts));
        let settings = [&*skip, &need.to_string(), &mounts, &at_home(more)];
        let output = find(home.path(), "--start", settings, &[]);
        let report = FindReport::parse(output.strip_prefix("podbridge-find/1\n").unwrap());
        let chosen = report.directory.map(|directory| directory.base);
        assert_eq!(chosen, expected.map(at_home), "{settings:?}: {:?}", report.refused);
    }
}

#[test]
fn the_find_script_runs_a_known_binary_but_no_incomplete_one() {
    let home = home();
    let settings = [":", "1", ":", ""];
    let tags = ["0.1.0-zzzz:00", "0.1.0-abcd:00"];
    let own = write_program(home.path(), "running", 0o600)
        .parent()
        .unwrap()
        .to_owned();
    assert_eq!(find(home.path(), "", settings, &tags), "podbridge-find/1\n");
    for (answer, start, options) in [
        ("running", "", Some("proxy")),
        ("running", "--start", Some("proxy --start")),
        ("ready", "--start", Some("proxy --start --parent-environment")),
        ("ready", "", None),
    ] {
        write_program(home.path(), answer, 0o700);
        let socket = own.join("agent-abcd.sock");
        let expected = match options {
            Some(options) => format!("{options} --digest abcd --container-socket {}\n", socket.display()),
            None => "podbridge-find/1\n".to_owned(),
        };
        assert_eq!(find(home.path(), start, settings, &tags), expected);
    }
}

#[test]
fn a_damaged_program_is_removed_and_another_one_is_asked_for() {
    let home = home();
    let whole = PROGRAM.replace("ANSWER", "garbage");
    let segfault = "#!/bin/sh\nkill -SEGV $$\n";
    for damaged in [
        &[][..],
        &[0; 4096],
        b"\x7fELF\x02\x01\x01",
        segfault.as_bytes(),
        whole.as_bytes(),
    ] {
        let file = write_program(home.path(), "", 0o700);
        write_with_a_process(&file, damaged);
        let mount = own_mount(home.path());
        let settings = [HOST_DIRECTORIES, "1", &mount, ""];
        let output = find(home.path(), "--start", settings, &["0.1.0-abcd:00"]);
        let report = FindReport::parse(output.strip_prefix("podbridge-find/1\n").unwrap());
        assert!(report.directory.is_some(), "{output}");
        assert!(!file.exists());
    }
}

#[test]
fn a_binary_is_written_to_a_new_file_and_runs_only_if_the_content_is_the_same() {
    let home = home();
    let file = home.path().join("f");
    let script = |script: &str, content: &[u8]| {
        let arguments = [home.path().to_str().unwrap(), "f", "socket", "abcd", "--spool-limit=9"];
        run(home.path(), script, &arguments, content)
    };
    let program = PROGRAM.replace("ANSWER", "ready");
    let printed = [program.as_bytes(), END_MARKER].concat();
    assert!(script(WRITE, program.as_bytes()).status.success());
    // An existing file of that name is not overwritten.
    assert!(!script(WRITE, b"other").status.success());
    assert!(script(WRITE, program.as_bytes()).status.success());
    let started = script(START, ANSWER_SAME);
    let options = "--start --parent-environment --spool-limit=9 --digest abcd --container-socket socket";
    let expected = [&printed[..], format!("proxy {options}\n").as_bytes()].concat();
    assert_eq!((started.status.success(), started.stdout), (true, expected));
    let refused = script(START, ANSWER_OTHER);
    assert_eq!((refused.status.success(), refused.stdout), (false, printed));
    assert!(!file.exists());
}

#[test]
fn a_binary_with_which_no_agent_starts_is_not_left_behind() {
    let home = home();
    let file = home.path().join("f");
    let fails = PROGRAM.replace("ANSWER", "ready").replace("echo \"$@\"", "exit 1");
    for (program, code) in [(fails.as_bytes(), 1), (b"\x7fELF\x02\x01\x01", 127)] {
        let arguments = [home.path().to_str().unwrap(), "f", "socket", "abcd", ""];
        assert!(run(home.path(), WRITE, &arguments, program).status.success());
        let started = run(home.path(), START, &arguments, ANSWER_SAME);
        assert_eq!(started.status.code(), Some(code), "{started:?}");
        assert!(!file.exists());
    }
}

/// Shells that images have. A machine without one of them tests the others.
const SHELLS: [&[&str]; 3] = [&["dash"], &["bash", "--posix"], &["busybox", "sh"]];
const OTHER: u32 = 1000;

/// A directory for all users, in which another user has planted something, and a directory that nobody else may touch.
struct Volume {
    directory: tempfile::TempDir,
    outside: tempfile::TempDir,
}

impl Volume {
    fn new(mode: u32) -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(mode)).unwrap();
        Self {
            directory,
            outside: tempfile::tempdir().unwrap(),
        }
    }

    fn own(&self) -> PathBuf {
        self.directory.path().join(".podbridge-0")
    }

    /// Plants something where the agent's directory would be.
    fn plant(&self, what: &str) {
        let (own, evil) = (self.own(), self.evil_program());
        let program_in = |directory: &Path| {
            fs::create_dir_all(directory).unwrap();
            fs::copy(&evil, directory.join("podbridge-agent-0.1.0-abcd.x")).unwrap();
            directory.join("podbridge-agent-0.1.0-abcd.x")
        };
        let private = |directory: &Path| fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).unwrap();
        let give_away = |path: &Path| std::os::unix::fs::lchown(path, Some(OTHER), Some(OTHER)).unwrap();
        match what {
            "nothing" => {}
            "file" => fs::write(&own, "").unwrap(),
            "program beside it" => {
                let program = self.directory.path().join("podbridge-agent-0.1.0-abcd.x");
                fs::copy(&evil, &program).unwrap();
            }
            "link to a shell beside it" => {
                let link = self.directory.path().join("podbridge-agent-0.1.0-abcd.x");
                std::os::unix::fs::symlink(&evil, link).unwrap();
            }
            "directory" => {
                program_in(&own);
                private(&own);
                give_away(&own);
            }
            "directory with a program of root" => {
                program_in(&own);
                give_away(&own);
                fs::set_permissions(&own, fs::Permissions::from_mode(0o777)).unwrap();
            }
            "directory of root that all may change" => {
                program_in(&own);
                fs::set_permissions(&own, fs::Permissions::from_mode(0o777)).unwrap();
            }
            "program of another in a directory of root" => {
                give_away(&program_in(&own));
                private(&own);
            }
            "link to a directory of root" => {
                program_in(self.outside.path());
                std::os::unix::fs::symlink(self.outside.path(), &own).unwrap();
                give_away(&own);
            }
            "link to nothing" => std::os::unix::fs::symlink(self.outside.path().join("made"), &own).unwrap(),
            "another directory of root under this name" => {
                program_in(&own);
                private(&own);
            }
            other => panic!("{other}"),
        }
    }

    /// A program that leaves a trace when it is run.
    fn evil_program(&self) -> PathBuf {
        let program = self.outside.path().join("evil");
        fs::write(
            &program,
            format!("#!/bin/sh\n: >{}\necho running\n", self.trace().display()),
        )
        .unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        program
    }

    fn trace(&self) -> PathBuf {
        self.directory.path().join("trace")
    }
}

fn run_with(shell: &[&str], script: &str, arguments: &[&str], stdin: &[u8]) -> Output {
    let line = [shell, &["-c", script, "sh"], arguments].concat();
    let mut command = Command::new(line[0]);
    command.args(&line[1..]).env_clear().env("PATH", "/usr/bin:/bin");
    let input = tempfile::tempfile().unwrap();
    std::os::unix::fs::FileExt::write_all_at(&input, stdin, 0).unwrap();
    command.current_dir("/").stdin(input).output().unwrap()
}

fn shells() -> impl Iterator<Item = &'static [&'static str]> {
    let is_there = |shell: &&[&str]| run_there(shell[0]);
    SHELLS.into_iter().filter(is_there)
}

fn run_there(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", "command -v \"$0\"", program])
        .output()
        .unwrap();
    found.status.success()
}

/// Whatever another user plants, nothing of it runs, nothing outside changes, and an agent finds its place in the volume.
#[test]
fn what_another_user_plants_never_runs_and_keeps_no_agent_away() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // All shells with each row would take too long; each row has another one.
    let shells: Vec<_> = shells().collect();
    let mut shells = shells.iter().cycle();
    for mode in [0o777, 0o2777, 0o1777] {
        for what in [
            "nothing",
            "file",
            "program beside it",
            "link to a shell beside it",
            "directory",
            "directory with a program of root",
            "directory of root that all may change",
            "program of another in a directory of root",
            "link to a directory of root",
            "link to nothing",
            "another directory of root under this name",
        ] {
            // In a directory with the sticky bit, nobody can move a directory of root there.
            if mode & 0o1000 != 0 && what.starts_with("another directory") {
                continue;
            }
            let shell = shells.next().unwrap();
            let volume = Volume::new(mode);
            volume.plant(what);
            let row = format!("{shell:?} {mode:o} {what}");
            let before = fs::read_dir(volume.outside.path()).unwrap().count();
            let path = volume.directory.path().to_str().unwrap();
            let mount = format!(":{path}:");
            let settings = [
                "--start",
                "",
                "r1",
                HOST_DIRECTORIES,
                "1",
                &mount,
                path,
                ":",
                "0.1.0-abcd:00",
            ];
            let output = run_with(shell, FIND, &settings, b"");
            let text = String::from_utf8(output.stdout).unwrap();
            let report = FindReport::parse(text.strip_prefix("podbridge-find/1\n").expect(&row));
            let place = report.directory.unwrap_or_else(|| panic!("{row}: {text}")).binary;
            let program = PROGRAM.replace("ANSWER", "ready");
            let written = run_with(shell, WRITE, &[&place, "f"], program.as_bytes());
            assert!(written.status.success(), "{row}: {written:?}");
            let started = run_with(shell, START, &[&place, "f", "socket", "abcd", ""], ANSWER_SAME);
            assert!(
                started.stdout.ends_with(b"--container-socket socket\n"),
                "{row}: {started:?}"
            );
            assert!(!volume.trace().exists(), "{row}: another user's program ran");
            assert_eq!(fs::read_dir(volume.outside.path()).unwrap().count(), before, "{row}");
        }
    }
}

/// Between two steps, another user exchanges the directory in a volume where he can rename it.
#[test]
fn a_directory_that_is_exchanged_between_two_steps_takes_nothing() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    for shell in shells() {
        for what in [
            "directory",
            "link to a directory of root",
            "directory of root that all may change",
        ] {
            let volume = Volume::new(0o777);
            volume.plant(what);
            let own = volume.own();
            let count = || fs::read_dir(volume.outside.path()).unwrap().count();
            let before = count();
            for (script, stdin) in [(WRITE, &b"#!/bin/sh\n"[..]), (START, ANSWER_SAME)] {
                let name = "podbridge-agent-0.1.0-abcd.x";
                let output = run_with(
                    shell,
                    script,
                    &[own.to_str().unwrap(), name, "socket", "abcd", ""],
                    stdin,
                );
                assert_eq!(output.status.code(), Some(1), "{shell:?} {what}");
                assert_eq!(output.stdout, b"");
                assert_eq!(output.stderr, b"another user has changed the directory\n");
            }
            assert!(!volume.trace().exists() && count() == before, "{shell:?} {what}");
        }
    }
}

#[test]
fn in_a_volume_for_all_a_program_is_believed_for_its_digest() {
    use sha2::Digest as _;
    if !rustix::process::geteuid().is_root() {
        return;
    }
    for shell in shells() {
        let volume = Volume::new(0o777);
        volume.plant("another directory of root under this name");
        let file = volume.own().join("podbridge-agent-0.1.0-abcd.x");
        write_with_a_process(&file, PROGRAM.replace("ANSWER", "running").as_bytes());
        let digest = data_encoding::HEXLOWER.encode(&sha2::Sha256::digest(fs::read(&file).unwrap()));
        let path = volume.directory.path().to_str().unwrap();
        let run = |shared: &str, known: &str| {
            let mount = format!(":{path}:");
            let settings = ["", "", "r1", HOST_DIRECTORIES, "1", &mount, path, shared, known];
            String::from_utf8(run_with(shell, FIND, &settings, b"").stdout).unwrap()
        };
        let (nothing, known) = ("podbridge-find/1\n", format!("0.1.0-abcd:{digest}"));
        assert_eq!(run(":", "0.1.0-abcd:00"), nothing);
        assert!(run(":", &known).starts_with("proxy --digest abcd"), "{shell:?}");
        // The root of another container could have written it, and could exchange it at any time.
        assert_eq!(run(&format!(":{path}:"), &known), nothing);
    }
}

/// A process whose user is not the one of the script is no agent, whatever its name is.
#[test]
fn only_an_agent_of_this_user_is_run_from_its_process() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    for (uid, is_run) in [(0, true), (OTHER, false)] {
        let volume = Volume::new(0o755);
        let program = volume.directory.path().join("podbridge-agent");
        // A copy of a real program: the kernel shows an interpreter as the program of a script.
        write_with_a_process(&program, &fs::read("/bin/sleep").unwrap());
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let mut process = std::os::unix::process::CommandExt::uid(&mut Command::new(&program), uid)
            .arg("60")
            .spawn()
            .unwrap();
        let trace = volume.outside.path().join("trace");
        let pid = process.id();
        let probe = format!(
            "try() {{ case $2 in --process) [ \"$3\" = {pid} ] && : >{};; esac; return 1; }}\nstart=",
            trace.display()
        );
        let script = FIND.replace("\nstart=", &format!("\n{probe}"));
        run_with(&["sh"], &script, &["", "", "r1", ":", "1", ":", "", ":"], b"");
        let _ = process.kill();
        let _ = process.wait();
        assert_eq!(trace.exists(), is_run, "{uid}");
    }
}

/// An agent may end between the moment at which the script sees its process and the one at which the script looks into it.
#[test]
fn the_find_script_survives_processes_that_end_while_it_looks() {
    let directory = tempfile::tempdir().unwrap();
    write_with_a_process(&directory.path().join("podbridge-agent"), b"#!/bin/sh\n");
    let stop = directory.path().join("stop");
    let loops: Vec<_> = (0..4)
        .map(|_| {
            Command::new("sh")
                .args([
                    "-c",
                    "chmod 700 podbridge-agent; until [ -e stop ]; do ./podbridge-agent; done",
                ])
                .current_dir(directory.path())
                .spawn()
                .unwrap()
        })
        .collect();
    let outputs: Vec<_> = (0..20)
        .map(|_| find(directory.path(), "", [":", "1", ":", ""], &[]))
        .collect();
    fs::write(stop, "").unwrap();
    for mut process in loops {
        assert!(process.wait().unwrap().success());
    }
    assert!(
        outputs.iter().all(|output| output == "podbridge-find/1\n"),
        "{outputs:?}"
    );
}
