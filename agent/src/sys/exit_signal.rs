//! Lets a short-lived command clean up before a signal ends it. `commands::tree` calls it.

use std::io;
use std::ptr;
use std::thread;

/// Runs `cleanup` when TERM, INT, HUP or QUIT arrives, and then exits with 128 + n, as a shell reports signal n. The caller has
/// started no other thread yet: all threads must inherit that these signals are blocked.
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
