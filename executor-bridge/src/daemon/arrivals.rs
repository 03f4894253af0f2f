//! Clients that come to the bridge's socket. One that has gone before its turn is closed without a task of its own: a process can connect
//! and go faster than a bridge serves, and the next client would wait for thousands that nobody misses. `serve` takes clients from here.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::task::yield_now;

use crate::sys;

/// Clients that are passed over before other tasks have their turn: less than a millisecond.
const PASSED_OVER_AT_ONCE: usize = 64;

/// The listener's queue.
#[derive(Debug)]
pub(super) struct Arrivals(AsyncFd<OwnedFd>);

impl Arrivals {
    pub(super) fn new(listener: UnixListener) -> io::Result<Self> {
        Ok(Self(sys::watch_readable(listener.into())?))
    }

    /// Waits for the next client that is still there. Cancel-safe.
    pub(super) async fn next(&self) -> io::Result<UnixStream> {
        loop {
            let mut ready = self.0.readable().await?;
            match ready.try_io(|listener| take(listener.as_fd())) {
                Ok(Ok(Some(stream))) => return UnixStream::from_std(stream),
                Ok(Ok(None)) => yield_now().await,
                Ok(Err(error)) => return Err(error),
                // The queue is empty.
                Err(_) => {}
            }
        }
    }

    /// Returns the next client that waits already; `None` if there is none.
    pub(super) fn next_waiting(&self) -> Option<UnixStream> {
        loop {
            match take(self.0.as_fd()) {
                Ok(Some(stream)) => return UnixStream::from_std(stream).ok(),
                Ok(None) => {}
                Err(_) => return None,
            }
        }
    }
}

/// Returns the first client of the queue that is still there; `None` if there are more to look at.
fn take(listener: impl AsFd) -> io::Result<Option<std::os::unix::net::UnixStream>> {
    for _ in 0..PASSED_OVER_AT_ONCE {
        let stream = match accept_with(&listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(stream) => stream,
            Err(Errno::INTR | Errno::CONNABORTED) => continue,
            Err(errno) => return Err(errno.into()),
        };
        if !has_gone(&stream) {
            return Ok(Some(stream.into()));
        }
    }
    Ok(None)
}

/// Tells whether the peer has closed both directions. What it has sent before is of no use: the end of a connection cancels its operation.
pub(super) fn has_gone(stream: &impl AsFd) -> bool {
    let mut looked_at = [PollFd::new(stream, PollFlags::empty())];
    let looked = poll(&mut looked_at, Some(&Timespec::default()));
    looked.is_ok() && looked_at[0].revents().contains(PollFlags::HUP)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::Shutdown;
    use std::os::unix::net;
    use std::path::PathBuf;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn listen() -> (tempfile::TempDir, PathBuf, Arrivals) {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let listener = UnixListener::bind(&socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        (directory, socket, Arrivals::new(listener).unwrap())
    }

    #[tokio::test]
    async fn clients_that_have_gone_are_passed_over() {
        let (_directory, socket, arrivals) = listen();
        for number in 0..3 * PASSED_OVER_AT_ONCE {
            let mut gone = net::UnixStream::connect(&socket).unwrap();
            if number % 2 == 0 {
                gone.write_all(b"request").unwrap();
            }
        }
        let mut stays = net::UnixStream::connect(&socket).unwrap();
        let mut found = arrivals.next().await.unwrap().into_std().unwrap();
        found.set_nonblocking(false).unwrap();
        stays.write_all(b"x").unwrap();
        let mut byte = [0];
        found.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
        drop(stays);
        let nobody = timeout(Duration::from_millis(20), arrivals.next()).await;
        assert!(nobody.is_err() && arrivals.next_waiting().is_none());
    }

    #[tokio::test]
    async fn a_client_that_sends_nothing_more_is_still_there() {
        let (_directory, socket, arrivals) = listen();
        let client = net::UnixStream::connect(&socket).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert!(arrivals.next_waiting().is_some());
    }
}
