//! The process at the other end of a Unix socket, as the kernel knows it: it may not lie about itself. `transport` calls it.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _};

/// Process and user that connected, or that listened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer {
    /// `None`: the process is in another pid namespace, from which this one cannot see it.
    pub(crate) pid: Option<i32>,
    pub(crate) uid: u32,
}

/// Returns the process at the other end of a connected socket.
pub(crate) fn of(socket: impl AsFd) -> io::Result<Peer> {
    // Not rustix's function: its pid cannot be 0, and the kernel reports 0 for a process that is not visible.
    let mut peer = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `peer`, and any bytes are a valid value of it.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut peer).cast(),
            &raw mut length,
        )
    };
    if result == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(Peer {
        pid: Some(peer.pid).filter(|pid| *pid > 0),
        uid: peer.uid,
    })
}
