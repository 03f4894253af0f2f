//! The bridge's only unsafe code: file descriptors, the allocator, and the privacy of the process. `daemon`, `launch`, `pod` and
//! `connections` call it.
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Sets close-on-exec on every descriptor above the standard three. The next program then inherits nothing that our
/// caller left open: a daemon that kept a pipe open would make the reader of that pipe wait for its end.
pub(crate) fn close_all_on_exec() -> std::io::Result<()> {
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let number = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        let Some(number) = number.filter(|number| *number > 2) else {
            continue;
        };
        // SAFETY: the descriptor is used for this one call only, which neither closes nor keeps it. If the number was
        // closed or reused meanwhile, the call fails or marks another descriptor, which is wanted for all of them.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        // The directory's own descriptor is among them and may be closed.
        let _ = fcntl_setfd(descriptor, FdFlags::CLOEXEC);
    }
    Ok(())
}

/// Lets the program of a command inherit a descriptor of this process, under the same number. The descriptor must stay open until the command
/// has started.
pub(crate) fn pass_on(command: &mut Command, descriptor: &impl AsRawFd) {
    let number = descriptor.as_raw_fd();
    // SAFETY: the closure makes one system call and allocates nothing; the descriptor is open in the child as it is here.
    unsafe {
        command.pre_exec(move || Ok(fcntl_setfd(BorrowedFd::borrow_raw(number), FdFlags::empty())?));
    }
}

/// Keeps other processes of this user, and core dumps, from the memory of this process, which holds tokens.
pub(crate) fn keep_memory_private() {
    // A failure is ignored: the bridge runs as well.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let no_core = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let _ = setrlimit(Resource::Core, no_core);
}

/// Registers a descriptor with the runtime, for reading.
pub(crate) fn watch_readable(descriptor: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is the same open descriptor until it is dropped, and AsyncFd drops it after it has
    // deregistered it.
    let registered = unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) };
    registered.map_err(|error| error.into_parts().1)
}

/// Makes all threads use one heap. Must be called before other threads exist. Large blocks, such as an agent's binary
/// on its way to a pod, then return to the system when they are freed; smaller blocks return with `give_memory_back`.
/// By default, glibc would take the first large block as a sign that more will come, and would keep them.
pub(crate) fn set_up_heap() {
    #[cfg(target_env = "gnu")]
    {
        /// Smallest size of a large block: larger than a chunk with its message. A chunk as a large block would cost
        /// more for the system calls than for the work on it.
        const LARGE: i32 = 192 << 10;
        /// Free memory that the heap keeps at its end for the next chunk.
        const KEPT: i32 = 1 << 20;
        // SAFETY: the calls only set numbers, and no other thread runs yet.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
            libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT);
            // A second heap would save little waiting and would keep its own free memory.
            libc::mallopt(libc::M_ARENA_MAX, 1);
        }
    }
}

/// Returns how many bytes of the heap are free and not returned to the system.
pub(crate) fn free_memory() -> usize {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes the allocator's own locks and only reads.
    return unsafe { libc::mallinfo2() }.fordblks;
    #[cfg(not(target_env = "gnu"))]
    0
}

/// Returns all free memory to the system. For use after work that will not continue at once.
pub(crate) fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes the allocator's own locks and touches only free memory.
    unsafe {
        libc::malloc_trim(0);
    }
}
