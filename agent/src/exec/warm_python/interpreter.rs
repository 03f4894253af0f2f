//! One warm interpreter: starts it, has it learn modules and fork their processes, and starts a module in one of these. Its program and the
//! packets are in `interpreter.py`. All calls block; `mod.rs` makes them on threads that may.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use podbridge_files::users::Identity;
use rustix::fs::{MemfdFlags, SeekFrom, Uid, memfd_create, seek};
use rustix::io::ioctl_fionread;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal};
use rustix::rand::{GetRandomFlags, getrandom};
use sha2::{Digest as _, Sha256};

use super::dependencies::{Dependencies, are_same_file};
use super::form::Form;
use super::packets::Packets;
use crate::exec::mark::Mark;
use crate::exec::process::{self, AgentStdio};
use crate::exec::{Command, ExecId, StdinMode};
use crate::sys::fork::Stdio;
use crate::sys::limits::InheritedLimits;
use crate::sys::reaper::{Child, Reaper};

const PROGRAM: &str = concat!(
    include_str!("core_files.py"),
    include_str!("modules.py"),
    include_str!("process.py"),
    include_str!("interpreter.py")
);
/// Time that the start of Python and the import of its standard library may take.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// Time that compiling the files of a module may take.
const LEARN_TIMEOUT: Duration = Duration::from_secs(30);
/// Time that two forks may take.
const FORK_TIMEOUT: Duration = Duration::from_secs(5);
/// Time that a waiting process may take to accept its module. After it, the command runs as any other.
const ACCEPT_TIMEOUT: Duration = Duration::from_millis(500);

/// A reason for an ordinary start: a variable would be the mark of the interpreter.
pub(super) const NO_MARK: &str = "processes cannot be marked without a variable of the environment";

/// A warm interpreter. It ends when this is dropped, because its socket closes.
#[derive(Debug)]
pub(super) struct Interpreter {
    /// Process of the command, usually a shell.
    pid: Pid,
    user: Uid,
    reaper: Reaper,
    control: Mutex<Control>,
    waiting: Mutex<Option<Waiting>>,
    dependencies: Mutex<Dependencies>,
}

/// The conversation with the interpreter.
#[derive(Debug)]
struct Control {
    packets: Packets,
    /// What it writes to standard error. A module that starts anew would write the same.
    stderr: OwnedFd,
    /// Digests of the payloads that it has learned.
    learned: HashSet<[u8; 32]>,
}

/// A leader and its child that wait for a module.
#[derive(Debug)]
struct Waiting {
    packets: Packets,
    leader: Child,
    /// The child shares no memory with the interpreter any more.
    has_copied: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no panic while it is locked")
}

impl Interpreter {
    /// Starts an interpreter through the command of `form`, and has it learn the module that `command` runs. `Err`: a reason for people.
    pub(super) fn start(
        reaper: &Reaper,
        limits: InheritedLimits,
        command: &Command,
        user: Uid,
        form: &Form,
    ) -> Result<Self, String> {
        let begun = SystemTime::now();
        let mut random = [0; 16];
        // getrandom(2) always returns so few bytes at once.
        let _ = getrandom(&mut random, GetRandomFlags::empty());
        let command = Command {
            id: ExecId(random),
            argv: form.argv.clone(),
            ..command.clone()
        };
        let (packets, stderr, stdio) =
            open_stdio().map_err(|error| format!("its streams cannot be opened: {error}"))?;
        let child = process::spawn_with(reaper, limits, &command, stdio).map_err(|failure| failure.message)?;
        let answer = packets.receive(START_TIMEOUT);
        let paths = understand(&answer, b'H')?;
        check_silence(&stderr)?;
        let executable = paths.split(|byte| *byte == 0).next().unwrap_or_default();
        if !are_same_file(executable, &form.python) {
            return Err("the command's interpreter starts another one".into());
        }
        let interpreter = Self {
            pid: child.pid,
            user,
            reaper: reaper.clone(),
            control: Mutex::new(Control {
                packets,
                stderr,
                learned: HashSet::new(),
            }),
            waiting: Mutex::default(),
            dependencies: Mutex::new(add(paths, form, begun)?),
        };
        interpreter.learn(form, &command.stdin, begun, true)?;
        Ok(interpreter)
    }

    /// Prepares the next module's process if none waits, and learns the module in `stdin` if it has files that are new. With `copies`, the
    /// process copies the memory that it shares now, which makes the module faster. `Err`: the interpreter is of no use any more.
    pub(super) fn learn(&self, form: &Form, stdin: &StdinMode, begun: SystemTime, copies: bool) -> Result<(), String> {
        let mut control = lock(&self.control);
        let failed = |error: io::Error| format!("it does not answer: {error}");
        // A first module is learned before a process is forked. Later ones must not keep the next module waiting.
        if lock(&self.waiting).is_none() && !control.learned.is_empty() {
            self.fork(&control, copies).map_err(failed)?;
        }
        if let StdinMode::Inline(module) = stdin
            && let payload = payload(module)
            && !control.learned.contains(&payload)
        {
            let content = content(module).map_err(failed)?;
            control.packets.send(b"L", &[content.as_fd()]).map_err(failed)?;
            let answer = control.packets.receive(LEARN_TIMEOUT);
            let dependencies = add(understand(&answer, b'L')?, form, begun)?;
            check_silence(&control.stderr)?;
            // What it has read before is compared as it was then.
            if let Some(reason) = self.outdated() {
                return Err(reason);
            }
            *lock(&self.dependencies) = dependencies;
            control.learned.insert(payload);
            self.fork(&control, copies).map_err(failed)?;
        } else if lock(&self.waiting).is_none() {
            self.fork(&control, copies).map_err(failed)?;
        }
        Ok(())
    }

    /// Replaces the waiting process by one that shares its memory with the interpreter, when no module comes.
    pub(super) fn rest(&self) {
        let control = lock(&self.control);
        if lock(&self.waiting).as_ref().is_some_and(|waiting| waiting.has_copied) {
            // The next module finds out that it does not answer.
            let _ = self.fork(&control, false);
        }
    }

    /// Has it fork a leader and its child, which replace those that wait.
    fn fork(&self, control: &Control, copies: bool) -> io::Result<()> {
        let (packets, peer) = Packets::pair()?;
        control.packets.send(b"S", &[peer.as_fd()])?;
        drop(peer);
        // The leader is the agent's child when its parent has been reaped (R). Its pids come from its child (B), and may be any: a module may
        // have changed the interpreter.
        let mut leader = None;
        let mut is_adopted = false;
        while leader.is_none() || !is_adopted {
            match &packets.receive(FORK_TIMEOUT)?[..] {
                [b'R'] => is_adopted = true,
                [b'B', a, b, c, d, ..] => leader = Pid::from_raw(i32::from_ne_bytes([*a, *b, *c, *d])),
                _ => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
        let leader = leader.and_then(|leader| self.reaper.adopt(leader, self.user));
        let leader = leader.ok_or(io::ErrorKind::NotFound)?;
        if copies {
            packets.send(b"P", &[])?;
        }
        *lock(&self.waiting) = Some(Waiting {
            packets,
            leader,
            has_copied: copies,
        });
        Ok(())
    }

    /// Returns a reason why the interpreter is outdated; `None`: it is not.
    pub(super) fn outdated(&self) -> Option<String> {
        let dependencies = lock(&self.dependencies);
        let path = dependencies.changed()?;
        Some(format!("{} has changed", path.to_string_lossy()))
    }

    /// Starts the module of `command` in the process that waits. `Err`: a reason, and no byte of the module has been read.
    pub(super) fn run(
        &self,
        command: &Command,
        user: Option<&Identity>,
        form: &Form,
    ) -> Result<(Child, AgentStdio), &'static str> {
        let Some(Waiting { packets, leader, .. }) = lock(&self.waiting).take() else {
            return Err("the interpreter is busy with the previous module");
        };
        let Mark::FileLocks(mark) = Mark::new(command.id) else {
            return Err(NO_MARK);
        };
        let accepted = process::open_stdio(command).and_then(|(ends, stdio)| {
            if let Some(user) = user {
                process::chown_stdio(&stdio, Uid::from_raw(user.uid));
            }
            let Stdio::Pipes { stdin, stdout, stderr } = &stdio else {
                return Err(io::ErrorKind::InvalidInput.into());
            };
            let script = form.script.as_ref().map_or(&b""[..], |path| path.as_bytes());
            let request = [&b"X"[..], &mark.to_ne_bytes(), script].concat();
            packets.send(&request, &[stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])?;
            match &packets.receive(ACCEPT_TIMEOUT)?[..] {
                b"K" => packets.send(b"G", &[])?,
                _ => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
            Ok(ends)
        });
        match accepted {
            Ok(ends) => Ok((leader, ends)),
            Err(_) => {
                // It has no permission to run, and gets none: its socket closes. A stopped process does not notice that.
                let _ = self.reaper.signal_group(leader.pid, Signal::KILL);
                Err("the prepared process did not take the module")
            }
        }
    }
}

/// Makes the standard streams of an interpreter: its program, a socket to it, and a pipe from it.
fn open_stdio() -> io::Result<(Packets, OwnedFd, Stdio)> {
    let (packets, stdout) = Packets::pair()?;
    let (stdin, program) = pipe_with(PipeFlags::CLOEXEC)?;
    // A pipe holds the whole program, so no reader is needed yet.
    File::from(program).write_all(PROGRAM.as_bytes())?;
    let (written, stderr) = pipe_with(PipeFlags::CLOEXEC)?;
    Ok((packets, written, Stdio::Pipes { stdin, stdout, stderr }))
}

/// Returns `Err` if something was written to this pipe.
fn check_silence(stderr: &OwnedFd) -> Result<(), String> {
    let count = ioctl_fionread(stderr).map_err(|error| format!("its standard error cannot be read: {error}"))?;
    if count == 0 {
        Ok(())
    } else {
        Err("its start writes to standard error".into())
    }
}

impl Drop for Interpreter {
    /// Ends the interpreter at once. The processes that wait for a module end because their socket closes.
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.reaper.signal_group(self.pid, Signal::KILL);
    }
}

/// Returns the content of an answer of this kind. `Err`: what the interpreter said instead.
fn understand(answer: &io::Result<Vec<u8>>, kind: u8) -> Result<&[u8], String> {
    match answer.as_deref() {
        Ok([first, content @ ..]) if *first == kind => Ok(content),
        Ok([b'U', reason @ ..]) => Err(String::from_utf8_lossy(reason).into_owned()),
        Ok(_) => Err("the command does not start a Python that can be kept warm".into()),
        Err(error) => Err(format!("it does not answer: {error}")),
    }
}

/// Looks at what the interpreter depends on, and at the shells of its command.
fn add(paths: &[u8], form: &Form, begun: SystemTime) -> Result<Dependencies, String> {
    let [first, second] = &form.shells;
    let paths = [paths, first, second, &form.python].join(&0);
    let dependencies = Dependencies::of(&paths);
    if dependencies.are_older_than(begun) {
        Ok(dependencies)
    } else {
        Err("files of Python have just changed".into())
    }
}

/// Returns a digest of the part of a module that does not change from task to task.
fn payload(module: &[u8]) -> [u8; 32] {
    // The payload is by far the longest run of base64; arguments and times stand outside of it.
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || b"+/=".contains(byte);
    let runs = module.split(|byte| !is_base64(byte));
    Sha256::digest(runs.max_by_key(|run| run.len()).unwrap_or_default()).into()
}

/// Returns a file without a name that has this content.
fn content(module: &[u8]) -> io::Result<OwnedFd> {
    let file = memfd_create("podbridge", MemfdFlags::CLOEXEC)?;
    let mut file = File::from(file);
    file.write_all(module)?;
    seek(&file, SeekFrom::Start(0))?;
    Ok(file.into())
}
