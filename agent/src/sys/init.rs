//! The small init of a container whose PID 1 is the agent: no runtime, no threads. It starts the worker (the same program), reaps
//! children, forwards signals, and restarts a worker that crashed. `commands::serve` calls it.

use std::io;
use std::process::Command;
use std::ptr;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};

/// Shortest time between two starts of the worker.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Runs `worker`, again and again if it crashes. Returns the container's exit code when the worker exited with 0, or ended after a
/// signal to end.
pub(crate) fn run(mut worker: Command) -> io::Result<u8> {
    let signals = block_signals();
    let mut ending = false;
    loop {
        let started = Instant::now();
        let child = worker.spawn()?;
        let pid = Pid::from_raw(child.id() as i32).expect("a child has a positive pid");
        let code = supervise(pid, &signals, &mut ending)?;
        if ending || code == 0 {
            return Ok(code);
        }
        eprintln!("podbridge-agent: the worker process ended with exit code {code}; restarting it");
        std::thread::sleep(RESTART_PAUSE.saturating_sub(started.elapsed()));
    }
}

/// Waits until the worker ends; returns its exit code, or 128 + n for signal n. Sets `ending` on a signal to end.
fn supervise(worker: Pid, signals: &libc::sigset_t, ending: &mut bool) -> io::Result<u8> {
    loop {
        while let Some((pid, status)) = no_children_is_none(wait(WaitOptions::NOHANG))? {
            if pid == worker {
                let code = status
                    .exit_status()
                    .or_else(|| status.terminating_signal().map(|s| 128 + s));
                if let Some(code) = code {
                    return Ok(code as u8);
                }
            }
        }
        // SAFETY: waits for one of the blocked signals; the set is initialised and no information is asked for.
        let number = unsafe { libc::sigwaitinfo(signals, ptr::null_mut()) };
        if number == -1 || number == libc::SIGCHLD {
            continue;
        }
        *ending |= matches!(number, libc::SIGTERM | libc::SIGINT | libc::SIGQUIT);
        if let Some(signal) = Signal::from_named_raw(number) {
            // The worker may have ended at this moment; the next wait shows it.
            let _ = kill_process(worker, signal);
        }
    }
}

/// Turns the error "no children" into `None`.
fn no_children_is_none<T>(waited: rustix::io::Result<Option<T>>) -> io::Result<Option<T>> {
    match waited {
        Err(rustix::io::Errno::CHILD) => Ok(None),
        other => Ok(other?),
    }
}

/// Blocks the signals that `supervise` waits for and forwards, since PID 1 has no default actions. The worker inherits the mask, and
/// calls `unblock_signals`.
fn block_signals() -> libc::sigset_t {
    // SAFETY: an all-zero sigset_t is valid storage for sigemptyset; the other calls get initialised sets.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in [
            libc::SIGCHLD,
            libc::SIGTERM,
            libc::SIGINT,
            libc::SIGQUIT,
            libc::SIGHUP,
            libc::SIGUSR1,
            libc::SIGUSR2,
        ] {
            libc::sigaddset(&mut set, signal);
        }
        libc::sigprocmask(libc::SIG_BLOCK, &set, ptr::null_mut());
        set
    }
}

/// Unblocks all signals, which the init had blocked in the parent. The caller has started no thread yet.
pub(crate) fn unblock_signals() {
    // SAFETY: as in `block_signals`.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut());
    }
}
