//! The `kubectl` shim: what it does not serve reaches the next kubectl unchanged, and never itself.

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

/// A next kubectl that says that it was reached.
const NEXT: &str = "#!/bin/sh\necho next \"$@\"\nexit 7\n";

/// Directories for PATH, in their order.
struct Places {
    root: TempDir,
    path: Vec<PathBuf>,
}

impl Places {
    fn new() -> Self {
        Self {
            root: tempfile::tempdir().unwrap(),
            path: Vec::new(),
        }
    }

    /// A new directory at PATH's end, and what its kubectl is to be.
    fn add(&mut self) -> PathBuf {
        let directory = self.root.path().join(self.path.len().to_string());
        fs::create_dir(&directory).unwrap();
        self.path.push(directory.clone());
        directory.join("kubectl")
    }

    fn add_script(&mut self, content: &str) {
        script(&self.add(), content);
    }

    fn shim(&mut self) -> PathBuf {
        let shim = self.add();
        // Perhaps on another file system.
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
    // Not by this process: another test that forks meanwhile would keep it open for writing, and it could not be run.
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

/// Standard output and code.
fn said(command: &mut Command) -> (String, i32) {
    let output = command.output().unwrap();
    (String::from_utf8(output.stdout).unwrap(), output.status.code().unwrap())
}

#[test]
fn what_is_passed_on_is_unchanged_to_the_byte() {
    let mut places = Places::new();
    let shim = places.shim();
    // A program, not a script: a script has no argv[0] of its own.
    copy("/bin/sh", &places.add());
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
    for zeroth in ["kubectl", "./odd/kubectl"] {
        let mut child = places
            .run(&shim, &[])
            .arg0(zeroth)
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
        for word in [OsStr::new(zeroth)].iter().chain(&arguments) {
            expected.extend_from_slice(word.as_encoded_bytes());
            expected.push(0);
        }
        expected.extend_from_slice(b"A=\xff\xfe\n\0PATH=");
        expected.extend_from_slice(std::env::join_paths(&places.path).unwrap().as_encoded_bytes());
        expected.extend_from_slice(b"\0PODBRIDGE_DISABLE=0\0input\0");
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&expected)
        );
        assert_eq!(output.stdout, expected);
    }
}

#[test]
fn what_the_shim_does_not_serve_is_passed_on() {
    let mut places = Places::new();
    let shim = places.shim();
    places.add_script(NEXT);
    let kubeconfig = places.root.path().join("config");
    fs::write(&kubeconfig, "{}").unwrap();
    let config = format!("--kubeconfig={}", kubeconfig.display());
    for arguments in [
        &[][..],
        &["version", "--client"],
        &["exec", "--as=x", "web", "--", "id"],
        &["exec", "web", "--", "id"],
        // No bridge is beside it: it is not even read, though there is no such context.
        &[&config, "exec", "--context=none", "web", "--", "id"],
        &["--kubeconfig=/none/config", "exec", "web", "--", "id"],
        // Zuul's ports, but no kubeconfig to put a bridge beside.
        &["port-forward", "pod/web", "1:19885", "2:19886"],
        &["port-forward", "pod/web", "8080:80"],
    ] {
        let begun = Instant::now();
        let expected = format!("{}\n", [&["next"], arguments].concat().join(" "));
        assert_eq!(said(&mut places.run(&shim, arguments)), (expected, 7));
        assert!(begun.elapsed() < Duration::from_secs(2), "{arguments:?}");
    }
}

#[test]
fn podbridge_kubectl_is_the_same() {
    let mut places = Places::new();
    places.shim();
    copy("/bin/sh", &places.add());
    let mut command = places.run(
        Path::new(PODBRIDGE),
        &["kubectl", "-c", "/bin/cat /proc/$$/cmdline", "x"],
    );
    let (stdout, code) = said(&mut command);
    assert_eq!(
        (stdout.as_str(), code),
        ("kubectl\0-c\0/bin/cat /proc/$$/cmdline\0x\0", 0)
    );
    let (help, _) = said(&mut places.run(Path::new(PODBRIDGE), &["--help"]));
    assert!(help.contains("kubectl"), "{help}");
}

#[test]
fn it_can_be_switched_off() {
    let mut places = Places::new();
    let shim = places.shim();
    places.add_script(NEXT);
    let gone = "--kubeconfig=/none/config";
    let forward = [gone, "port-forward", "pod/web", "1:19885", "2:19886"];
    for (value, expected) in [("1", 7), ("yes", 7), ("0", 0), ("", 0)] {
        let (_, code) = said(places.run(&shim, &forward).env("PODBRIDGE_DISABLE", value));
        // Served, it ends at once: the build has gone.
        assert_eq!(code, expected, "{value:?}");
    }
}

#[test]
fn it_never_runs_itself() {
    let mut places = Places::new();
    let shim = places.shim();
    symlink(&shim, places.add()).unwrap();
    copy(PODBRIDGE, &places.add());
    fs::hard_link(&shim, places.add()).unwrap();
    copy(PODBRIDGE, &places.add());
    symlink(PODBRIDGE, places.add()).unwrap();
    // As PATH often repeats itself.
    places.path.extend_from_within(..);
    let programs: Vec<PathBuf> = places.path.iter().map(|directory| directory.join("kubectl")).collect();
    for program in &programs {
        let begun = Instant::now();
        let output = places.run(program, &["version"]).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(127), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
        assert!(stderr.contains("no other is behind it in PATH"), "{stderr}");
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
    // Neither a directory nor a file that may not be run is in the way.
    fs::create_dir(places.add()).unwrap();
    fs::write(places.add(), "").unwrap();
    places.add_script(NEXT);
    places.path.extend_from_within(..);
    for program in programs.iter().map(PathBuf::as_path).chain([Path::new(PODBRIDGE)]) {
        let words = match program == Path::new(PODBRIDGE) {
            true => &["kubectl", "version"][..],
            false => &["version"],
        };
        assert_eq!(
            said(&mut places.run(program, words)),
            ("next version\n".into(), 7),
            "{program:?}"
        );
    }
}

#[test]
fn without_path_there_is_nothing_to_run() {
    let mut places = Places::new();
    let shim = places.shim();
    places.add_script(NEXT);
    let mut command = places.run(&shim, &["version"]);
    command.env_remove("PATH").current_dir(&places.path[1]);
    assert_eq!(said(&mut command), (String::new(), 127));
}

#[test]
fn a_script_that_leads_back_is_noticed() {
    let mut places = Places::new();
    let shim = places.shim();
    copy(PODBRIDGE, &places.add());
    places.add_script(&format!("#!/bin/sh\n'{}' \"$@\"\n", shim.display()));
    let output = places.run(&shim, &["version"]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(127), "{stderr}");
    assert!(
        stderr.contains("again and again") && stderr.lines().count() == 1,
        "{stderr}"
    );
}

#[test]
fn a_next_kubectl_that_cannot_run_is_named() {
    let mut places = Places::new();
    let shim = places.shim();
    let next = places.add();
    script(&next, "#!/no/interpreter\n");
    assert!(fs::metadata(&next).unwrap().permissions().mode() & 0o111 != 0);
    let output = places.run(&shim, &["version"]).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(126), "{stderr}");
    assert!(stderr.contains(next.to_str().unwrap()), "{stderr}");
}
