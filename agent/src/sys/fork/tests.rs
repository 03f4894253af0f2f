//! Tests with an exec that takes as long as the test wants: a fork may hold nothing that another fork waits for.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, WaitOptions, getrlimit, waitpid};

use super::*;

const TEST_TIMEOUT: Duration = Duration::from_secs(20);
/// Operation of fcntl(2), from asm-generic/fcntl.h; the libc crate lacks it.
const F_SETSIG: c_int = 10;

/// A program whose exec hangs until the test releases it: opening a file waits while another process holds a lease on it (fcntl(2)).
struct LeasedProgram {
    path: PathBuf,
    file: File,
}

impl LeasedProgram {
    fn new(path: PathBuf) -> Self {
        // Another process makes the copy: a file that is open for writing cannot be executed, and a child that another test
        // forks here would keep it open.
        assert!(
            Command::new("cp")
                .arg("/bin/true")
                .arg(&path)
                .status()
                .unwrap()
                .success()
        );
        let leased = Self {
            file: File::open(&path).unwrap(),
            path,
        };
        // The signal that announces a waiting process: one that is ignored.
        leased.fcntl(F_SETSIG, libc::SIGURG);
        // A child of another test may hold the descriptor for a moment, until its exec.
        eventually(|| leased.try_fcntl(libc::F_SETLEASE, libc::F_WRLCK).is_ok());
        leased
    }

    fn try_fcntl(&self, operation: c_int, argument: c_int) -> std::io::Result<c_int> {
        // SAFETY: none of these operations takes a pointer.
        match unsafe { libc::fcntl(self.file.as_raw_fd(), operation, argument) } {
            -1 => Err(std::io::Error::last_os_error()),
            answer => Ok(answer),
        }
    }

    fn fcntl(&self, operation: c_int, argument: c_int) -> c_int {
        self.try_fcntl(operation, argument).unwrap()
    }

    fn await_exec(&self) {
        eventually(|| self.fcntl(libc::F_GETLEASE, 0) != libc::F_WRLCK);
    }

    fn release_lease(&self) {
        self.fcntl(libc::F_SETLEASE, libc::F_UNLCK);
    }
}

fn eventually(condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < TEST_TIMEOUT);
        thread::sleep(Duration::from_millis(1));
    }
}

/// Starts a program on a thread of its own. The receiver gets its pid when the program is executed.
fn start(path: &Path) -> mpsc::Receiver<Pid> {
    let program = CString::new(path.to_str().unwrap()).unwrap();
    let null = || OwnedFd::from(File::options().read(true).write(true).open("/dev/null").unwrap());
    let command = PreparedCommand {
        programs: vec![program.clone()],
        argv: vec![program],
        env: Vec::new(),
        cwd: None,
        identity: None,
        stdio: Stdio::Pipes {
            stdin: null(),
            stdout: null(),
            stderr: null(),
        },
        limits: InheritedLimits {
            nofile: getrlimit(Resource::Nofile),
            core: getrlimit(Resource::Core),
        },
        file_locks: None,
    };
    let (sender, running) = mpsc::channel();
    thread::spawn(move || {
        let forked = fork(&command, &AtomicI32::new(0)).unwrap();
        let pid = forked.pid;
        forked.wait_for_exec().unwrap();
        sender.send(pid).unwrap();
    });
    running
}

#[test]
fn a_hanging_exec_keeps_no_other_command_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let (slow, hanging) = (
        LeasedProgram::new(dir.path().join("slow")),
        LeasedProgram::new(dir.path().join("hanging")),
    );
    let first = start(&slow.path);
    slow.await_exec();
    // This fork begins while the first exec hangs, so its child inherits the pipe that the first fork waits for.
    let second = start(&hanging.path);
    hanging.await_exec();
    slow.release_lease();
    let first = first
        .recv_timeout(TEST_TIMEOUT)
        .expect("the first program runs although the second hangs");
    hanging.release_lease();
    let second = second.recv_timeout(TEST_TIMEOUT).unwrap();
    for pid in [first, second] {
        let (_, status) = waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(status.exit_status(), Some(0));
    }
}
