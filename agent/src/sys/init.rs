//! The small init that the agent is as PID 1 of a container: no runtime, no threads. It starts the worker, reaps,
//! forwards signals, and starts the worker again if it crashed. `commands::serve` calls it.

use std::io;
use std::process::Command;
use std::ptr;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, wait};

/// A worker that died sooner than this is not started again at once.
const RESTART_PAUSE: Duration = Duration::from_secs(1);

/// Runs `worker` for ever; returns the exit code of the container when the worker ended after a signal to end.
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
        eprintln!("podbridge-agent: the worker ended with {code}; starting it again");
        std::thread::sleep(RESTART_PAUSE.saturating_sub(started.elapsed()));
    }
}

/// Until the worker ends: its exit code, or 128 + n for signal n.
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
            // It may have ended at this moment; the next wait tells.
            let _ = kill_process(worker, signal);
        }
    }
}

fn no_children_is_none<T>(waited: rustix::io::Result<Option<T>>) -> io::Result<Option<T>> {
    match waited {
        Err(rustix::io::Errno::CHILD) => Ok(None),
        other => Ok(other?),
    }
}

/// Blocks what is to be forwarded: PID 1 has no default actions. The worker inherits
/// the mask and calls `unblock_signals`.
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

/// Undoes what `block_signals` did in the parent. Before any thread is started.
pub(crate) fn unblock_signals() {
    // SAFETY: as in `block_signals`.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut());
    }
}
