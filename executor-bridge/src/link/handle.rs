//! The life of one pipe: when bytes last moved, whether it has ended and why, and how to end it. Clones share it.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::Instant;

#[derive(Clone)]
pub(crate) struct Handle(Arc<Inner>);

struct Inner {
    begun: Instant,
    /// Milliseconds after `begun` at which bytes last came or were accepted for sending.
    read: AtomicU64,
    written: AtomicU64,
    ended: watch::Sender<Option<End>>,
    /// What ends when the pipe is ended from our side.
    tasks: Mutex<Vec<AbortHandle>>,
    socket: Option<OwnedFd>,
}

#[derive(Debug, Clone)]
struct End {
    reason: String,
    /// By itself: nobody on our side wanted it.
    broken: bool,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("ended", &self.ended()).finish()
    }
}

impl Handle {
    /// `socket`: shut down when the pipe is ended.
    pub(crate) fn new(socket: Option<OwnedFd>) -> Self {
        Self(Arc::new(Inner {
            begun: Instant::now(),
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
            ended: watch::Sender::new(None),
            tasks: Mutex::new(Vec::new()),
            socket,
        }))
    }

    /// A task that carries the pipe.
    pub(crate) fn owns(&self, task: AbortHandle) {
        let mut tasks = self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.push(task);
    }

    /// Why the pipe is dead, as a phrase; `None` while it lives.
    pub(crate) fn ended(&self) -> Option<String> {
        self.0.ended.borrow().as_ref().map(|end| end.reason.clone())
    }

    /// Waits for the end; why.
    pub(crate) async fn wait(&self) -> String {
        let mut ended = self.0.ended.subscribe();
        let end = ended.wait_for(Option::is_some).await.map(|end| end.clone());
        // We hold its sender ourselves: it cannot be gone.
        end.ok().flatten().map_or_else(String::new, |end| end.reason)
    }

    /// Whether it ended by itself, not because nobody needed it.
    pub(crate) fn has_broken(&self) -> bool {
        self.0.ended.borrow().as_ref().is_some_and(|end| end.broken)
    }

    /// Notes that the pipe has ended by itself; the first reason counts.
    pub(crate) fn note_break(&self, reason: impl Into<String>) {
        self.note(reason.into(), true);
    }

    fn note(&self, reason: String, broken: bool) {
        self.0.ended.send_if_modified(|told| {
            let first = told.is_none();
            if first {
                *told = Some(End { reason, broken });
            }
            first
        });
    }

    /// Ends the pipe: whoever reads or writes it sees its end.
    pub(crate) fn end(&self, reason: impl Into<String>) {
        self.note(reason.into(), false);
        self.stop();
    }

    fn stop(&self) {
        if let Some(socket) = &self.0.socket {
            // A socket that is down already is what is wanted.
            let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
        }
        for task in self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
    }

    fn moved(&self, counter: &AtomicU64) {
        counter.store(self.0.begun.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Ends a pipe on which nothing came for `silence` and nothing could be sent for `stall`: our pings go unanswered.
    /// While bytes move in either direction it stays, however late the pong.
    pub(crate) fn watch_silence(&self, silence: Duration, stall: Duration) {
        let inner = Arc::downgrade(&self.0);
        let mut ended = self.0.ended.subscribe();
        tokio::spawn(async move {
            loop {
                // An idle bridge must not wake up for it more often than its pings make it.
                let wait = {
                    let Some(inner) = inner.upgrade() else { return };
                    let now = inner.begun.elapsed();
                    let left = |counter: &AtomicU64, limit: Duration| {
                        let since = now.saturating_sub(Duration::from_millis(counter.load(Ordering::Relaxed)));
                        limit.saturating_sub(since)
                    };
                    let wait = left(&inner.read, silence).max(left(&inner.written, stall));
                    if wait.is_zero() {
                        let handle = Handle(inner);
                        handle.note_break(format!("nothing came from the pod for {} s", silence.as_secs()));
                        handle.stop();
                        return;
                    }
                    wait
                };
                tokio::select! {
                    _ = ended.wait_for(Option::is_some) => return,
                    () = tokio::time::sleep(wait) => {}
                }
            }
        });
    }
}

/// A pipe whose movements and end its handle knows.
pub(crate) struct Monitored<T> {
    inner: T,
    handle: Handle,
}

impl<T> Monitored<T> {
    pub(crate) fn new(inner: T, handle: Handle) -> Self {
        Self { inner, handle }
    }
}

impl<T> Drop for Monitored<T> {
    fn drop(&mut self) {
        // The connection on top has ended by itself: an error of its protocol, or nobody needs it any more.
        self.handle.end("the connection to the agent was closed");
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Monitored<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        match &polled {
            Poll::Ready(Ok(())) if buf.filled().len() > before => self.handle.moved(&self.handle.0.read),
            Poll::Ready(Ok(())) => self.handle.note_break("the other side closed the link"),
            Poll::Ready(Err(_)) | Poll::Pending => {}
        }
        self.failed(&polled);
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Monitored<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.wrote(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.wrote(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_flush(cx);
        self.failed(&polled);
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<T> Monitored<T> {
    fn wrote(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(_)) = &polled {
            self.handle.moved(&self.handle.0.written);
        }
        self.failed(&polled);
        polled
    }

    fn failed<R>(&self, polled: &Poll<io::Result<R>>) {
        match polled {
            // TLS has a lecture for it.
            Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                self.handle.note_break("the link was cut");
            }
            Poll::Ready(Err(error)) => self.handle.note_break(format!("the link failed: {error}")),
            Poll::Ready(Ok(_)) | Poll::Pending => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_silent_pipe_is_ended() {
        let (near, mut far) = tokio::io::duplex(64);
        let handle = Handle::new(None);
        let mut near = Monitored::new(near, handle.clone());
        handle.watch_silence(Duration::from_secs(45), Duration::from_secs(30));
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_secs(10)).await;
            far.write_all(b"x").await.unwrap();
            near.read_u8().await.unwrap();
        }
        assert_eq!(handle.ended(), None);
        // Sending alone keeps it as well.
        for _ in 0..6 {
            tokio::time::sleep(Duration::from_secs(20)).await;
            near.write_all(b"x").await.unwrap();
        }
        assert_eq!(handle.ended(), None);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(handle.ended().unwrap().contains("45 s"));
        assert!(handle.has_broken());
    }

    #[tokio::test]
    async fn the_first_reason_counts() {
        let (near, far) = tokio::io::duplex(64);
        let handle = Handle::new(None);
        let mut near = Monitored::new(near, handle.clone());
        drop(far);
        assert_eq!(near.read(&mut [0]).await.unwrap(), 0);
        handle.end("too late");
        assert_eq!(handle.ended().unwrap(), "the other side closed the link");
        assert!(handle.has_broken());
    }

    #[tokio::test]
    async fn what_was_ended_is_not_broken() {
        let (near, far) = tokio::io::duplex(64);
        let handle = Handle::new(None);
        let mut near = Monitored::new(near, handle.clone());
        handle.end("nobody needs it");
        drop(far);
        assert_eq!(near.read(&mut [0]).await.unwrap(), 0);
        assert!(!handle.has_broken());
    }
}
