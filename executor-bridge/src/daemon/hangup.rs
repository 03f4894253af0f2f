//! Distinguishes a client that has disconnected from one that has only closed its sending side. Both read as end of
//! file, but only the first cancels its operation. `peer` waits here.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use tokio::io::unix::AsyncFd;

/// Watch on a Unix socket; ready when the peer has closed both directions.
#[derive(Debug)]
pub(super) struct Hangup(AsyncFd<OwnedFd>);

impl Hangup {
    /// Makes the watch. An epoll of its own reports only the hangup; tokio would report a half-closed stream as ready
    /// again and again.
    pub(super) fn new(stream: &impl AsFd) -> io::Result<Self> {
        let watcher = epoll::create(CreateFlags::CLOEXEC)?;
        // EPOLLHUP is always reported, whatever events are requested.
        epoll::add(&watcher, stream, EventData::new_u64(0), EventFlags::empty())?;
        Ok(Self(crate::sys::watch_readable(watcher)?))
    }

    /// Waits until the peer has closed both directions.
    pub(super) async fn wait(&self) {
        // An error means that nothing can be watched any more. The next write then notices that the client is gone.
        if self.0.readable().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn half_closing_is_no_hangup() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let hangup = Hangup::new(&ours).unwrap();
        theirs.shutdown(Shutdown::Write).unwrap();
        let early = tokio::time::timeout(Duration::from_millis(20), hangup.wait()).await;
        assert!(early.is_err());
        drop(theirs);
        hangup.wait().await;
    }
}
