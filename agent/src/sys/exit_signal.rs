//! What a short-lived command does before a signal ends it. `commands::tree` calls it.

use std::io;
use std::ptr;
use std::thread;

/// Runs `cleanup` when a signal to end comes, and then ends the process as the shell reports the signal. Before other threads are
/// started, which inherit that the signals are blocked.
pub(crate) fn run_before_exit(cleanup: impl FnOnce() + Send + 'static) -> io::Result<()> {
    // SAFETY: an all-zero sigset_t is valid storage for sigemptyset; the other calls get an initialised set.
    let signals = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT] {
            libc::sigaddset(&mut set, signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &set, ptr::null_mut());
        set
    };
    thread::Builder::new().spawn(move || {
        let mut number = 0;
        // SAFETY: waits for one of the blocked signals; the set is initialised.
        while unsafe { libc::sigwait(&signals, &mut number) } != 0 {}
        cleanup();
        std::process::exit(128 + number);
    })?;
    Ok(())
}
