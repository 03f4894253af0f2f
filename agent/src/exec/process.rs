//! From a `Command` to a running child and the agent's ends of its descriptors. Blocking: called on a thread that may
//! block, by `supervisor`.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{FileType, Uid, fchown, fstat};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Rlimit;
use rustix::termios::isatty;

use super::{Command, StartFailure, StdinMode, environment};
use crate::env;
use crate::sys::fork::{ForkError, PreparedCommand, Stdio, Step};
use crate::sys::reaper::{Child, Reaper};
use crate::sys::{lookup, pty, users};

/// Of the child, which is a copy of the agent until then: also where the file was replaced since, and in a directory that the
/// command's user may not enter.
const OWN_PROGRAM: &CStr = c"/proc/self/exe";

/// The agent's ends.
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

pub(crate) fn spawn(reaper: &Reaper, nofile: Rlimit, command: &Command) -> Result<(Child, AgentStdio), StartFailure> {
    let identity = match &command.user {
        None => None,
        Some(user) => Some(users::lookup(user).ok_or_else(|| unknown_user(user))?),
    };
    let variables = environment::merged(
        env::variables(),
        identity.as_ref().and_then(|i| i.account.as_ref()),
        command,
    );
    let (ends, stdio) = open_stdio(command).map_err(|error| {
        let errno = error.raw_os_error().unwrap_or(libc::EIO);
        failure("stdin", errno, format!("no descriptors for the command: {error}"))
    })?;
    if let Some(identity) = &identity {
        chown_stdio(&stdio, Uid::from_raw(identity.uid));
    }
    let prepared = PreparedCommand {
        programs: if command.agent_program {
            vec![OWN_PROGRAM.to_owned()]
        } else {
            lookup::candidates(&command.argv[0], &variables, lookup::own_directory().as_deref())
        },
        argv: command.argv.clone(),
        env: environment::to_strings(&variables),
        cwd: command.cwd.clone(),
        identity,
        stdio,
        nofile,
    };
    match reaper.spawn(&prepared) {
        Ok(child) => Ok((child, ends)),
        Err(error) => Err(explain(error, command, &prepared.programs)),
    }
}

fn open_stdio(command: &Command) -> io::Result<(AgentStdio, Stdio)> {
    if let Some(size) = command.pty {
        let pty = pty::open(size)?;
        return Ok((AgentStdio::Pty { master: pty.master }, Stdio::Pty { slave: pty.slave }));
    }
    let (stdin, ours) = match &command.stdin {
        StdinMode::Null => (OwnedFd::from(File::open("/dev/null")?), None),
        StdinMode::Stream | StdinMode::Inline(_) => {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
            (read, Some(write))
        }
    };
    let (stdout, child_stdout) = pipe_with(PipeFlags::CLOEXEC)?;
    let (stderr, child_stderr) = pipe_with(PipeFlags::CLOEXEC)?;
    for end in [
        ours.as_ref().map(OwnedFd::as_fd),
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
            stdin: ours,
            stdout,
            stderr,
        },
        stdio,
    ))
}

/// To the user whose they are to be: he may open them by name, as /dev/stderr or his terminal.
fn chown_stdio(stdio: &Stdio, user: Uid) {
    let ours = match stdio {
        Stdio::Pty { slave } => [Some(slave), None, None],
        Stdio::Pipes { stdin, stdout, stderr } => [Some(stdin), Some(stdout), Some(stderr)],
    };
    for descriptor in ours.into_iter().flatten() {
        // Not /dev/null. Whoever may not give it away has a command that can use it by its number all the same.
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

/// One sentence that names what is missing. execve says ENOENT both for a program and for its interpreter.
fn explain(error: ForkError, command: &Command, programs: &[CString]) -> StartFailure {
    let reason = io::Error::from_raw_os_error(error.errno);
    let program = command.argv[0].to_string_lossy();
    let cwd = Path::new(OsStr::from_bytes(command.cwd.as_deref().unwrap_or_default().to_bytes()));
    match error.step {
        Step::Exec => {
            let there = programs
                .iter()
                .find(|path| cwd.join(OsStr::from_bytes(path.as_bytes())).exists());
            match (error.errno, there) {
                (libc::ENOENT, Some(path)) => {
                    let path = path.to_string_lossy();
                    failure(
                        "interpreter",
                        error.errno,
                        format!("the interpreter that {path} names is missing"),
                    )
                }
                (libc::ENOENT, None) => failure(
                    "exec",
                    error.errno,
                    format!("{program}: no such program in the container"),
                ),
                _ => failure("exec", error.errno, format!("{program} cannot be executed: {reason}")),
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
                format!("the agent may not run commands as {user}: {reason}"),
            )
        }
        Step::Fork | Step::Session | Step::Stdio => failure(
            error.step_name(),
            error.errno,
            format!("{program} could not be started: {reason}"),
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
