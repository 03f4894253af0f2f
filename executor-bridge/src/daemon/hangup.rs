//! Tells a client that has gone from one that only has nothing more to say: both read as end of file, and only the first
//! cancels its operation. `client` waits here.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use tokio::io::unix::AsyncFd;

/// Becomes readable when the peer of a Unix socket has closed both directions.
#[derive(Debug)]
pub(super) struct Hangup(AsyncFd<OwnedFd>);

impl Hangup {
    /// tokio reports a half-closed stream as ready for ever; an epoll of its own reports nothing but the hangup.
    pub(super) fn new(stream: &impl AsFd) -> io::Result<Self> {
        let watcher = epoll::create(CreateFlags::CLOEXEC)?;
        // EPOLLHUP is always reported, whatever is asked for.
        epoll::add(&watcher, stream, EventData::new_u64(0), EventFlags::empty())?;
        Ok(Self(crate::sys::watch_readable(watcher)?))
    }

    pub(super) async fn wait(&self) {
        // An error here means that nothing can be watched any more; a gone client is then seen by the next write.
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
