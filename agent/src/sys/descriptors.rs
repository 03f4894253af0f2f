//! Descriptors: watching them, closing what a parent left open, and the limit on how many there may be.

use std::io;
use std::os::fd::OwnedFd;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Raises the limit of open descriptors to the hard limit (about three per exec are needed) and returns the limits that
/// the process was given, which its children get back.
pub(crate) fn raise_limit() -> Rlimit {
    let given = getrlimit(Resource::Nofile);
    // A refusal leaves the given limit in force, which is only a smaller number of execs.
    let _ = setrlimit(
        Resource::Nofile,
        Rlimit {
            current: given.maximum,
            maximum: given.maximum,
        },
    );
    given
}

/// Closes everything above stderr. A daemon that kept a descriptor of the shell which started it would keep that
/// shell's `kubectl exec` open for ever. To be called first, while nothing of ours is open.
pub(crate) fn close_inherited() {
    // SAFETY: nothing in this process owns a descriptor above 2 yet.
    if unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) } == 0 {
        return;
    }
    // A kernel before 5.9, or a seccomp filter that does not know the call.
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else {
        return;
    };
    let open: Vec<i32> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    for fd in open.into_iter().filter(|fd| *fd > 2) {
        // SAFETY: as above; the directory's own descriptor is closed already, closing it again fails harmlessly.
        unsafe { libc::close(fd) };
    }
}

/// Registers a non-blocking descriptor with the runtime.
pub(crate) fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is the same open descriptor until it is dropped, which AsyncFd does after it deregistered it.
    let registered = unsafe { AsyncFd::register_with_interest(fd, interest) };
    registered.map_err(|error| error.into_parts().1)
}
