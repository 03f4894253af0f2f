//! The kubectl shim: calls that it does not serve reach the next kubectl unchanged, and never the shim itself.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const PODBRIDGE: &str = env!("CARGO_BIN_EXE_podbridge");

/// A next kubectl that prints that it was reached.
const NEXT: &str = "#!/bin/sh\necho next \"$@\"\nexit 7\n";

/// The directories of PATH, in order.
struct SearchPath {
    root: TempDir,
    path: Vec<PathBuf>,
}

impl SearchPath {
    fn new() -> Self {
        Self {
            root: tempfile::tempdir().unwrap(),
            path: Vec::new(),
        }
    }

    /// Adds a directory at the end of PATH; returns the path for its kubectl.
    fn add(&mut self) -> PathBuf {
        let directory = self.root.path().join(self.path.len().to_string());
        fs::create_dir(&directory).unwrap();
        self.path.push(directory.clone());
        directory.join("kubectl")
    }

    fn add_script(&mut self, content: &str) {
        script(&self.add(), content);
    }

    /// Adds a directory with the shim; returns the shim's path.
    fn shim(&mut self) -> PathBuf {
        let shim = self.add();
        // A hard link fails between file systems.
        fs::hard_link(PODBRIDGE, &shim).unwrap_or_else(|_| copy(PODBRIDGE, &shim));
        shim
    }

    fn run(&self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .stdin(Stdio::null())
            .env_clear()
            .env("PATH", std::env::join_paths(&self.path).unwrap());
        command
    }
}

fn script(path: &Path, content: &str) {
    // A child writes the file: a test that forks meanwhile would keep a file of this process open for writing, and it could not be run.
    let mut child = Command::new("/bin/sh")
        .args(["-c", "cat > \"$0\" && chmod 755 \"$0\""])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(content.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

fn copy(from: &str, to: &Path) {
    assert!(
        Command::new("/bin/cp")
            .arg("-L")
            .arg(from)
            .arg(to)
            .status()
            .unwrap()
            .success()
    );
}

/// Runs the command; returns standard output and exit code.
fn stdout_and_code(command: &mut Command) -> (String, i32) {
    let output = command.output().unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.code().unwrap())
}

#[test]
fn arguments_environment_and_streams_are_passed_on_unchanged() {
    let mut search_path = SearchPath::new();
    let shim = search_path.shim();
    // The next kubectl is a program, because the argv[0] of a script is lost.
    copy("/bin/sh", &search_path.add());
    let show = "/bin/cat /proc/$$/cmdline /proc/$$/environ -; echo oops >&2; exit 7";
    let odd = OsString::from_vec(b"\xff\xfe\n".to_vec());
    let arguments = [
        OsStr::new("-c"),
        OsStr::new(show),
        OsStr::new(""),
        &odd,
        OsStr::new("--"),
        OsStr::new(""),
    ];
    for argv0 in ["kubectl", "./odd/kubectl"] {
        let mut child = search_path
            .run(&shim, &[])
            .arg0(argv0)
            .args(arguments)
            .env("A", &odd)
            .env("PODBRIDGE_DISABLE", "0")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(b"input\0").unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), &output.stderr[..]), (Some(7), &b"oops\n"[..]));
        let mut expected = Vec::new();
        for word in [OsStr::new(argv0)].iter().chain(&arguments) {
            expected.extend_from_slice(word.as_encoded_bytes());
            expected.push(0);
        }
        expected.extend_from_slice(b"A=\xff\xfe\n\0PATH=");
        expected.extend_from_slice(std::env::join_paths(&search_path.path).unwrap().as_encoded_bytes());
        expected.extend_from_slice(b"\0PODBRIDGE_DISABLE=0\0input\0");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&expected)
        );
        assert_eq!(output.stdout, expected);
    }
}

#[test]
fn calls_that_the_shim_does_not_serve_are_passed_on() {
    let mut search_path = SearchPath::new();
    let shim = search_path.shim();
    search_path.add_script(NEXT);
    let kubeconfig = search_path.root.path().join("config");
    fs::write(&kubeconfig, "{}").unwrap();
    let config = format!("--kubeconfig={}", kubeconfig.display());
    for arguments in [
        &[][..],
        &["version", "--client"],
        &["exec", "--as=x", "web", "--", "id"],
        &["exec", "web", "--", "id"],
        // No bridge is beside the kubeconfig: the shim does not read it, and does not notice the unknown context.
        &[&config, "exec", "--context=none", "web", "--", "id"],
        &["--kubeconfig=/none/config", "exec", "web", "--", "id"],
        // Zuul's ports, but no kubeconfig that a bridge could be beside.
        &["port-forward", "pod/web", "1:19885", "2:19886"],
        &["port-forward", "pod/web", "8080:80"],
    ] {
        let started = Instant::now();
        let expected = format!("{}\n", [&["next"], arguments].concat().join(" "));
        assert_eq!(stdout_and_code(&mut search_path.run(&shim, arguments)), (expected, 7));
        assert!(started.elapsed() < Duration::from_secs(2), "{arguments:?}");
    }
}

#[test]
fn podbridge_kubectl_is_passed_on_in_the_same_way() {
    let mut search_path = SearchPath::new();
    search_path.shim();
    copy("/bin/sh", &search_path.add());
    let mut command = search_path.run(
        Path::new(PODBRIDGE),
        &["kubectl", "-c", "/bin/cat /proc/$$/cmdline", "x"],
    );
    let (stdout, code) = stdout_and_code(&mut command);
    assert_eq!(
        (stdout.as_str(), code),
        ("kubectl\0-c\0/bin/cat /proc/$$/cmdline\0x\0", 0)
    );
    let (help, _) = stdout_and_code(&mut search_path.run(Path::new(PODBRIDGE), &["--help"]));
    assert!(help.contains("kubectl"), "{help}");
}

#[test]
fn podbridge_disable_switches_the_shim_off() {
    let mut search_path = SearchPath::new();
    let shim = search_path.shim();
    search_path.add_script(NEXT);
    let gone = "--kubeconfig=/none/config";
    let forward = [gone, "port-forward", "pod/web", "1:19885", "2:19886"];
    for (value, expected) in [("1", 7), ("yes", 7), ("0", 0), ("", 0)] {
        let (_, code) = stdout_and_code(search_path.run(&shim, &forward).env("PODBRIDGE_DISABLE", value));
        // A served call ends at once with 0: the build is gone.
        assert_eq!(code, expected, "{value:?}");
    }
}

#[test]
fn the_shim_never_runs_itself() {
    let mut search_path = SearchPath::new();
    let shim = search_path.shim();
    symlink(&shim, search_path.add()).unwrap();
    copy(PODBRIDGE, &search_path.add());
    fs::hard_link(&shim, search_path.add()).unwrap();
    copy(PODBRIDGE, &search_path.add());
    symlink(PODBRIDGE, search_path.add()).unwrap();
    // PATH often names a directory twice.
    search_path.path.extend_from_within(..);
    let programs: Vec<PathBuf> = search_path
        .path
        .iter()
        .map(|directory| directory.join("kubectl"))
        .collect();
    for program in &programs {
        let started = Instant::now();
        let output = search_path.run(program, &["version"]).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(127), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains("PATH has no other kubectl after it"), "{stderr}");
        assert!(started.elapsed() < Duration::from_secs(5));
    }
    // A directory and a file that is not executable are skipped.
    fs::create_dir(search_path.add()).unwrap();
    fs::write(search_path.add(), "").unwrap();
    search_path.add_script(NEXT);
    search_path.path.extend_from_within(..);
    for program in programs.iter().map(PathBuf::as_path).chain([Path::new(PODBRIDGE)]) {
        let words = if program == Path::new(PODBRIDGE) {
            &["kubectl", "version"][..]
        } else {
            &["version"]
        };
        assert_eq!(
            stdout_and_code(&mut search_path.run(program, words)),
            ("next version\n".into(), 7),
            "{program:?}"
        );
    }
}

#[test]
fn without_path_no_next_kubectl_is_found() {
    let mut search_path = SearchPath::new();
    let shim = search_path.shim();
    search_path.add_script(NEXT);
    let mut command = search_path.run(&shim, &["version"]);
    command.env_remove("PATH").current_dir(&search_path.path[1]);
    assert_eq!(stdout_and_code(&mut command), (String::new(), 127));
}

#[test]
fn a_script_that_calls_the_shim_again_is_detected() {
    let mut search_path = SearchPath::new();
    let shim = search_path.shim();
    copy(PODBRIDGE, &search_path.add());
    search_path.add_script(&format!("#!/bin/sh\n'{}' \"$@\"\n", shim.display()));
    let output = search_path.run(&shim, &["version"]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(127), "{stderr}");
    assert!(stderr.contains("in a loop") && stderr.lines().count() == 1, "{stderr}");
}

#[test]
fn a_next_kubectl_that_cannot_be_run_is_named() {
    let mut search_path = SearchPath::new();
    let shim = search_path.shim();
    let next = search_path.add();
    script(&next, "#!/no/interpreter\n");
    assert!(fs::metadata(&next).unwrap().permissions().mode() & 0o111 != 0);
    let output = search_path.run(&shim, &["version"]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(126), "{stderr}");
    assert!(stderr.contains(next.to_str().unwrap()), "{stderr}");
}
