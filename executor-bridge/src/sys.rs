//! The one unsafe corner: descriptors and the allocator. The daemon calls it.
#![allow(unsafe_code)]

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::{FdFlags, fcntl_setfd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Marks every descriptor above the standard three close-on-exec, so that a program started next inherits none of what
/// our own caller left open: a pipe kept by a daemon would make somebody wait for its end for ever.
pub(crate) fn close_all_on_exec() -> std::io::Result<()> {
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let number = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        let Some(number) = number.filter(|number| *number > 2) else {
            continue;
        };
        // SAFETY: the descriptor is only used for this one call, which neither closes nor keeps it; if its number was
        // closed or reused meanwhile, the call fails or marks another descriptor, which is what is wanted of all.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        // The directory's own descriptor is among them and may be gone.
        let _ = fcntl_setfd(descriptor, FdFlags::CLOEXEC);
    }
    Ok(())
}

/// Registers a descriptor with the runtime.
pub(crate) fn watch_readable(descriptor: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is the same open descriptor until it is dropped, which AsyncFd does after it deregistered it.
    let registered = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
    registered.map_err(|error| error.into_parts().1)
}

/// One heap for all threads; to be called before there are any. Large blocks, such as an agent's binary on its way to a pod, are given
/// back to the system when they are freed; chunks are not, until `give_memory_back`. Otherwise the C library takes the first large one
/// as a sign that there will be more, and keeps them.
pub(crate) fn set_up_heap() {
    #[cfg(target_env = "gnu")]
    {
        /// Above a chunk with its message, which would else come from the system and go back each time, and that costs more than what
        /// is done with it.
        const LARGE: i32 = 192 << 10;
        /// What the heap keeps at its end, for the next chunk.
        const KEPT: i32 = 1 << 20;
        // SAFETY: the calls only set numbers, and no other thread runs yet.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
            libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
            // A second heap would save little waiting, and keep its own share.
            libc::mallopt(libc::M_ARENA_MAX, 1);
        }
    }
}

/// All that is free: after work that will not go on at once.
pub(crate) fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes the allocator's own locks and touches only memory that is free.
    unsafe {
        libc::malloc_trim(0);
    }
}
