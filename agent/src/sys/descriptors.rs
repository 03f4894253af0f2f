//! File descriptors: registers them with the runtime, and closes those that a parent left open.
//! `commands::serve` and `exec` call it.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Closes every descriptor above stderr. A daemon that keeps a descriptor of the shell that started it would keep that shell's
/// `kubectl exec` open for ever. The caller uses none of them afterwards and closes none of them again.
pub(crate) fn close_inherited() {
    // SAFETY: nothing in this process uses or closes a descriptor above 2 afterwards.
    if unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) } == 0 {
        return;
    }
    // The kernel is older than 5.9, or a seccomp filter does not know the call.
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

/// Registers a non-blocking descriptor with the runtime. `Err` if the runtime cannot watch it.
pub(crate) fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is the same open descriptor until it is dropped, which AsyncFd does after it deregistered it.
    let registered = unsafe { AsyncFd::register_with_interest(fd, interest) };
    registered.map_err(|error| error.into_parts().1)
}
