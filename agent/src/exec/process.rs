//! Spawns a `Command`: opens its standard streams, looks up user and program, and explains a failure in one sentence. `spawn` waits
//! for the child's execve(2), so `supervisor` calls it on a thread that may block.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use podbridge_files::users::{self, Identity};
use rustix::fs::{FileType, Uid, fchown, fstat};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::isatty;

use super::mark::Mark;
use super::{Command, StartFailure, StdinMode, environment};
use crate::env::{self, Variables};
use crate::sys::fork::{ForkError, PreparedCommand, Stdio, Step};
use crate::sys::limits::InheritedLimits;
use crate::sys::reaper::{Child, Reaper};
use crate::sys::{lookup, pty};

/// Path of the agent's own executable in the child, which is a copy of the agent until its execve(2). The path is valid even if the
/// file was replaced since, or if the command's user may not enter the file's directory.
const OWN_PROGRAM: &CStr = c"/proc/self/exe";

/// The agent's ends of a command's standard streams.
#[derive(Debug)]
pub(crate) enum AgentStdio {
    Pipes {
        stdin: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    Pty {
        master: OwnedFd,
    },
}

/// Spawns the command. `Err` names the step that failed.
pub(crate) fn spawn(
    reaper: &Reaper,
    limits: InheritedLimits,
    command: &Command,
) -> Result<(Child, AgentStdio), StartFailure> {
    let (identity, variables) = account(command)?;
    let (ends, stdio) = open_stdio(command).map_err(|error| {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        failure(
            "stdin",
            errno,
            format!("cannot open the standard streams of the command: {error}"),
        )
    })?;
    if let Some(identity) = &identity {
        chown_stdio(&stdio, Uid::from_raw(identity.uid));
    }
    let child = execute(reaper, limits, command, identity, &variables, stdio)?;
    Ok((child, ends))
}

/// Spawns the command with these standard streams.
pub(super) fn spawn_with(
    reaper: &Reaper,
    limits: InheritedLimits,
    command: &Command,
    stdio: Stdio,
) -> Result<Child, StartFailure> {
    let (identity, variables) = account(command)?;
    execute(reaper, limits, command, identity, &variables, stdio)
}

/// Returns the user of the command, `None` for the agent's own, and its environment. `Err`: there is no such user.
pub(super) fn account(command: &Command) -> Result<(Option<Identity>, Variables), StartFailure> {
    let identity = match &command.user {
        None => None,
        Some(user) => Some(users::lookup(user).ok_or_else(|| unknown_user(user))?),
    };
    let mark = Mark::new(command.id);
    let variables = environment::merged(env::variables(), identity.as_ref(), command, &mark);
    Ok((identity, variables))
}

fn execute(
    reaper: &Reaper,
    limits: InheritedLimits,
    command: &Command,
    identity: Option<Identity>,
    variables: &Variables,
    stdio: Stdio,
) -> Result<Child, StartFailure> {
    let prepared = PreparedCommand {
        programs: if command.agent_program {
            vec![OWN_PROGRAM.to_owned()]
        } else {
            lookup::candidates(&command.argv[0], variables, lookup::own_directory().as_deref())
        },
        argv: command.argv.clone(),
        env: environment::to_strings(variables),
        cwd: command.cwd.clone(),
        identity,
        stdio,
        limits,
        file_locks: match Mark::new(command.id) {
            Mark::FileLocks(limit) => Some(limit),
            Mark::Variable(_) => None,
        },
    };
    let spawned = reaper.spawn(&prepared);
    spawned.map_err(|error| explain(error, command, &prepared.programs))
}

/// Opens pipes or a terminal, and returns both ends of them.
pub(super) fn open_stdio(command: &Command) -> io::Result<(AgentStdio, Stdio)> {
    if let Some(size) = command.pty {
        let pty = pty::open(size)?;
        return Ok((AgentStdio::Pty { master: pty.master }, Stdio::Pty { slave: pty.slave }));
    }
    let (stdin, stdin_writer) = match &command.stdin {
        StdinMode::Null => (OwnedFd::from(File::open("/dev/null")?), None),
        StdinMode::Stream | StdinMode::Inline(_) => {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
            (read, Some(write))
        }
    };
    let (stdout, child_stdout) = pipe_with(PipeFlags::CLOEXEC)?;
    let (stderr, child_stderr) = pipe_with(PipeFlags::CLOEXEC)?;
    for end in [
        stdin_writer.as_ref().map(OwnedFd::as_fd),
        Some(stdout.as_fd()),
        Some(stderr.as_fd()),
    ]
    .into_iter()
    .flatten()
    {
        rustix::io::ioctl_fionbio(end, true)?;
    }
    let stdio = Stdio::Pipes {
        stdin,
        stdout: child_stdout,
        stderr: child_stderr,
    };
    Ok((
        AgentStdio::Pipes {
            stdin: stdin_writer,
            stdout,
            stderr,
        },
        stdio,
    ))
}

/// Makes the command's user the owner of its standard streams, so that the command may open them by name (/dev/stderr, its terminal).
pub(super) fn chown_stdio(stdio: &Stdio, user: Uid) {
    let descriptors = match stdio {
        Stdio::Pty { slave } => [Some(slave), None, None],
        Stdio::Pipes { stdin, stdout, stderr } => [Some(stdin), Some(stdout), Some(stderr)],
    };
    for descriptor in descriptors.into_iter().flatten() {
        // /dev/null keeps its owner. A refusal is harmless: the command has the open descriptor.
        if isatty(descriptor)
            || fstat(descriptor).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Fifo)
        {
            let _ = fchown(descriptor, Some(user), None);
        }
    }
}

fn unknown_user(user: &str) -> StartFailure {
    failure(
        "user",
        libc::EINVAL,
        format!("the container has no user {user:?} in /etc/passwd"),
    )
}

/// Turns a failed step into one sentence that names what is missing. execve(2) returns ENOENT both for a missing program and for
/// its missing interpreter.
fn explain(error: ForkError, command: &Command, programs: &[CString]) -> StartFailure {
    let reason = io::Error::from_raw_os_error(error.errno);
    let program = command.argv[0].to_string_lossy();
    let cwd = Path::new(OsStr::from_bytes(command.cwd.as_deref().unwrap_or_default().to_bytes()));
    match error.step {
        Step::Exec => {
            let existing = programs
                .iter()
                .find(|path| cwd.join(OsStr::from_bytes(path.as_bytes())).exists());
            match (error.errno, existing) {
                (libc::ENOENT, Some(path)) => {
                    let path = path.to_string_lossy();
                    failure(
                        "interpreter",
                        error.errno,
                        format!("the interpreter that the first line of {path} names is missing in the container"),
                    )
                }
                (libc::ENOENT, None) => failure(
                    "exec",
                    error.errno,
                    format!("{program}: no such program in the container"),
                ),
                _ => failure("exec", error.errno, format!("cannot execute {program}: {reason}")),
            }
        }
        Step::Cwd => {
            let cwd = command.cwd.as_deref().unwrap_or_default().to_string_lossy();
            failure(
                "cwd",
                error.errno,
                format!("cannot change to the directory {cwd}: {reason}"),
            )
        }
        Step::User => {
            let user = command.user.as_deref().unwrap_or_default();
            failure(
                "user",
                error.errno,
                format!(
                    "cannot run the command as user {user}: {reason}; only an agent that runs as root can change the user"
                ),
            )
        }
        Step::Fork | Step::Session | Step::Stdio => failure(
            error.step_name(),
            error.errno,
            format!("cannot start {program}: {reason}"),
        ),
    }
}

fn failure(step: &'static str, errno: i32, message: String) -> StartFailure {
    let missing = errno == libc::ENOENT && matches!(step, "exec" | "interpreter");
    StartFailure {
        step,
        errno,
        message,
        exit_code: if missing { 127 } else { 126 },
    }
}
