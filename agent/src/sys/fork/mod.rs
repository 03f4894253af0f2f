//! Forks and executes a program, with a precise error: the step that failed, and its errno. Everything is prepared before the fork.
//! Between fork and exec the child makes system calls only, because it uses the agent's memory, and another thread may hold the
//! allocator's lock. `exec::process` prepares the command; only `reaper` calls `fork`.

use std::ffi::{CString, c_char, c_int, c_void};
use std::io::Read;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};

use podbridge_files::users::Identity;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Gid, Pid, Uid};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};

use crate::sys::limits::InheritedLimits;

/// The standard descriptors of the child.
#[derive(Debug)]
pub(crate) enum Stdio {
    Pipes {
        stdin: OwnedFd,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    Pty {
        slave: OwnedFd,
    },
}

/// A command that is ready to run: the child needs no memory and no lookup for it.
#[derive(Debug)]
pub(crate) struct PreparedCommand {
    /// Paths to try, in this order, as execvp(3) does.
    pub(crate) programs: Vec<CString>,
    pub(crate) argv: Vec<CString>,
    pub(crate) env: Vec<CString>,
    /// `None`: the agent's own working directory.
    pub(crate) cwd: Option<CString>,
    /// `None`: the agent's own user.
    pub(crate) identity: Option<Identity>,
    pub(crate) stdio: Stdio,
    /// Limits that the child gets back; the agent has others.
    pub(crate) limits: InheritedLimits,
    /// Soft limit on file locks, which the kernel ignores; `None`: unchanged.
    pub(crate) file_locks: Option<u64>,
}

/// The step between fork and exec that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Fork,
    Session,
    Stdio,
    User,
    Cwd,
    Exec,
}

/// Failure between fork and exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ForkError {
    pub(crate) step: Step,
    pub(crate) errno: i32,
}

impl ForkError {
    /// Returns the step's name on the wire.
    pub(crate) fn step_name(&self) -> &'static str {
        match self.step {
            Step::Fork => "fork",
            Step::Session => "session",
            Step::Stdio => "stdin",
            Step::User => "user",
            Step::Cwd => "cwd",
            Step::Exec => "exec",
        }
    }
}

/// A child that was forked. It has executed its program, or reports through `status` why it has not.
#[derive(Debug)]
pub(crate) struct ForkedChild {
    pub(crate) pid: Pid,
    status: OwnedFd,
}

impl ForkedChild {
    /// Waits until the child has executed its program or failed. Blocks for as long as the file system takes.
    pub(crate) fn wait_for_exec(self) -> Result<(), ForkError> {
        let mut report = [0u8; 8];
        match std::fs::File::from(self.status).read_exact(&mut report) {
            Ok(()) => {
                let [s0, s1, s2, s3, e0, e1, e2, e3] = report;
                let step = match u32::from_ne_bytes([s0, s1, s2, s3]) {
                    1 => Step::Session,
                    2 => Step::Stdio,
                    3 => Step::User,
                    4 => Step::Cwd,
                    _ => Step::Exec,
                };
                Err(ForkError {
                    step,
                    errno: i32::from_ne_bytes([e0, e1, e2, e3]),
                })
            }
            // The pipe is close-on-exec: its end without a report means that the program was executed.
            Err(_) => Ok(()),
        }
    }
}

/// Size of the child's stack in bytes. None of its calls goes deep.
const CHILD_STACK_BYTES: usize = 32 << 10;

/// Data of the child. Each pointer array ends with a null pointer.
struct ChildPlan<'a> {
    command: &'a PreparedCommand,
    programs: Vec<*const c_char>,
    argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
    groups: Vec<Gid>,
    /// Write end of the pipe that `ForkedChild::status` reads.
    report: RawFd,
}

/// Returns a pointer array for execve(2). It is valid as long as `strings`.
fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect()
}

/// Forks. The child leads a session and a process group of its own. `child` holds its pid before it runs, and so before it can end.
///
/// The child shares the agent's memory until its program is executed, and the caller blocks until then: that saves copying the page
/// tables and every page that the agent writes to next. A child that takes another user's identity shares no memory, so that no
/// process of that user ever has the agent's memory.
pub(crate) fn fork(command: &PreparedCommand, child: &AtomicI32) -> Result<ForkedChild, ForkError> {
    let failed = |errno| ForkError {
        step: Step::Fork,
        errno,
    };
    let (status, report) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| failed(errno.raw_os_error()))?;
    let plan = ChildPlan {
        command,
        programs: pointers(&command.programs),
        argv: pointers(&command.argv),
        env: pointers(&command.env),
        groups: command
            .identity
            .iter()
            .flat_map(|identity| &identity.groups)
            .map(|gid| Gid::from_raw(*gid))
            .collect(),
        report: report.as_raw_fd(),
    };
    let sharing = match command.identity {
        None => libc::CLONE_VM | libc::CLONE_VFORK,
        Some(_) => 0,
    };
    let mut stack = Vec::<u128>::with_capacity(CHILD_STACK_BYTES / size_of::<u128>());
    // SAFETY: the child runs `child_main` only, on a stack that nothing else uses and that outlives it: with shared memory, this
    // thread is suspended until the child has executed its program or ended; without shared memory, the child has a copy. All signals
    // are blocked meanwhile, as the agent's handlers must not run in the child.
    let cloned = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut before);
        let top = stack.as_mut_ptr().add(stack.capacity());
        let pid = libc::clone(
            child_main,
            top.cast(),
            sharing | libc::CLONE_PARENT_SETTID | libc::SIGCHLD,
            (&raw const plan).cast_mut().cast(),
            child.as_ptr(),
        );
        let errno = std::io::Error::last_os_error().raw_os_error();
        libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut());
        if pid > 0 {
            Pid::from_raw(pid).ok_or(errno)
        } else {
            Err(errno)
        }
    };
    match cloned {
        Ok(pid) => {
            // The kernel has stored it. qemu-user stores it in the child's memory only.
            child.store(pid.as_raw_nonzero().get(), Ordering::Release);
            Ok(ForkedChild { pid, status })
        }
        Err(errno) => Err(failed(errno.unwrap_or(libc::EAGAIN))),
    }
}

/// Entry point of the child.
extern "C" fn child_main(plan: *mut c_void) -> c_int {
    // SAFETY: `fork` passes a plan that outlives the child; this is the child.
    unsafe { exec_program(&*plan.cast::<ChildPlan<'_>>()) }
}

/// Prepares the child and executes its program. Reports the first failure and exits.
///
/// # Safety
/// The caller is a freshly forked child: nothing here may allocate, lock, or write to the agent's memory. errno is an exception, as it
/// belongs to the thread that waits. System calls set the identity of this one thread: the C library's functions would change all
/// threads of the agent.
unsafe fn exec_program(plan: &ChildPlan<'_>) -> ! {
    let &ChildPlan { command, report, .. } = plan;
    let fail = |step: u32, errno: c_int| -> ! {
        let mut message = [0u8; 8];
        message[..4].copy_from_slice(&step.to_ne_bytes());
        message[4..].copy_from_slice(&errno.to_ne_bytes());
        // SAFETY: plain system calls on a live buffer.
        unsafe {
            libc::write(report, message.as_ptr().cast(), message.len());
            libc::_exit(127)
        }
    };
    // SAFETY: errno is thread-local and readable at any time.
    let errno = || unsafe { *libc::__errno_location() };

    // SAFETY: system calls with valid arguments; the process is single-threaded.
    unsafe {
        if libc::setsid() == -1 {
            fail(1, errno());
        }
        let targets = match &command.stdio {
            Stdio::Pipes { stdin, stdout, stderr } => [stdin.as_raw_fd(), stdout.as_raw_fd(), stderr.as_raw_fd()],
            Stdio::Pty { slave } => {
                let slave = slave.as_raw_fd();
                if libc::ioctl(slave, libc::TIOCSCTTY, 0) == -1 {
                    fail(1, errno());
                }
                [slave; 3]
            }
        };
        // The agent always has its own 0, 1 and 2 open, so the sources are all above 2 and none is overwritten.
        for (wanted, source) in targets.into_iter().enumerate() {
            if libc::dup2(source, wanted as c_int) == -1 {
                fail(2, errno());
            }
        }
        // Close all other descriptors before any call that may hang in a file system: some are copies of pipes that other forks
        // wait for, or of other commands' pipes. On a kernel without this call the exec closes them.
        let report = report as libc::c_uint;
        libc::syscall(libc::SYS_close_range, 3, report - 1, 0);
        libc::syscall(libc::SYS_close_range, report + 1, libc::c_uint::MAX, 0);
        reset_signals();
        libc::umask(0o022);
        let number = |limit: Option<u64>| limit.map_or(libc::RLIM_INFINITY, |limit| limit as libc::rlim_t);
        let InheritedLimits { nofile, core } = command.limits;
        for (resource, limit) in [(libc::RLIMIT_NOFILE, nofile), (libc::RLIMIT_CORE, core)] {
            let limit = libc::rlimit {
                rlim_cur: number(limit.current),
                rlim_max: number(limit.maximum),
            };
            libc::setrlimit(resource, &limit);
        }
        if let Some(soft) = command.file_locks {
            let limit = [soft, u64::MAX];
            libc::syscall(libc::SYS_prlimit64, 0, libc::RLIMIT_LOCKS, &limit, ptr::null::<u8>());
        }
        if let Some(identity) = &command.identity {
            let taken = set_thread_groups(&plan.groups)
                .and_then(|()| set_thread_gid(Gid::from_raw(identity.gid)))
                .and_then(|()| set_thread_uid(Uid::from_raw(identity.uid)));
            if let Err(errno) = taken {
                fail(3, errno.raw_os_error());
            }
        }
        if let Some(cwd) = &command.cwd
            && libc::chdir(cwd.as_ptr()) == -1
        {
            fail(4, errno());
        }
        // As execvp(3) does: skip a path that is missing or may not be executed, and report EACCES rather than ENOENT.
        let mut refusal = libc::ENOENT;
        for program in plan.programs.iter().take_while(|p| !p.is_null()) {
            libc::execve(*program, plan.argv.as_ptr(), plan.env.as_ptr());
            match errno() {
                libc::ENOENT | libc::ENOTDIR => {}
                libc::EACCES => refusal = libc::EACCES,
                other => fail(5, other),
            }
        }
        fail(5, refusal)
    }
}

/// Resets signal dispositions and mask to what a program expects: Rust ignores SIGPIPE, tokio handles SIGCHLD.
///
/// # Safety
/// The caller is a freshly forked child.
unsafe fn reset_signals() {
    // SAFETY: system calls on zeroed storage that is larger than what the kernel reads.
    unsafe {
        // Use the system call: glibc refuses to change its own two signals, which a parent may have left ignored.
        let default = [0u64; 8];
        for signal in 1..=64 {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                ptr::null::<u8>(),
                8usize,
            );
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut());
    }
}

#[cfg(test)]
mod tests;
