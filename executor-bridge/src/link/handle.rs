//! The life of one pipe: when bytes last moved on it, whether it has ended and why, and how to end it. Clones of a handle share one life.
//! `MonitoredPipe` reports to it; `connections` ends it and asks it for the reason.

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
    created: Instant,
    /// Milliseconds after `created` at which bytes last came from the pod.
    read: AtomicU64,
    /// Milliseconds after `created` at which bytes were last accepted for sending.
    written: AtomicU64,
    end: watch::Sender<Option<LinkEnd>>,
    /// Tasks that carry the pipe; aborted when the pipe is ended from our side.
    tasks: Mutex<Vec<AbortHandle>>,
    /// Duplicate of the pipe's socket; shut down when the pipe is ended from our side.
    socket: Option<OwnedFd>,
}

#[derive(Debug, Clone)]
struct LinkEnd {
    reason: String,
    /// False if this bridge ended the link on purpose.
    broken: bool,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("end_reason", &self.end_reason())
            .finish()
    }
}

impl Handle {
    /// Makes the handle of a new pipe. `socket`: a duplicate of the pipe's socket, if it has one.
    pub(crate) fn new(socket: Option<OwnedFd>) -> Self {
        Self(Arc::new(Inner {
            created: Instant::now(),
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
            end: watch::Sender::new(None),
            tasks: Mutex::new(Vec::new()),
            socket,
        }))
    }

    /// Aborts this task, which carries the pipe, when the pipe is ended from our side.
    pub(crate) fn abort_at_end(&self, task: AbortHandle) {
        let mut tasks = self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.push(task);
    }

    /// Returns the reason why the pipe is dead, as a phrase; `None` while it lives.
    pub(crate) fn end_reason(&self) -> Option<String> {
        self.0.end.borrow().as_ref().map(|end| end.reason.clone())
    }

    /// Waits for the end of the pipe and returns its reason.
    pub(crate) async fn wait_for_end(&self) -> String {
        let mut end = self.0.end.subscribe();
        let end = end.wait_for(Option::is_some).await.map(|end| end.clone());
        // The error case cannot happen: `self` holds the sender.
        end.ok().flatten().map_or_else(String::new, |end| end.reason)
    }

    /// Tells whether the pipe broke, as opposed to having been ended on purpose by this bridge.
    pub(crate) fn has_broken(&self) -> bool {
        self.0.end.borrow().as_ref().is_some_and(|end| end.broken)
    }

    /// Notes that the pipe broke. A later reason does not replace the first.
    pub(crate) fn note_break(&self, reason: impl Into<String>) {
        self.note_end(reason.into(), true);
    }

    fn note_end(&self, reason: String, broken: bool) {
        self.0.end.send_if_modified(|end| {
            let is_first = end.is_none();
            if is_first {
                *end = Some(LinkEnd { reason, broken });
            }
            is_first
        });
    }

    /// Ends the pipe: its reader and its writer see the end.
    pub(crate) fn end(&self, reason: impl Into<String>) {
        self.note_end(reason.into(), false);
        self.stop();
    }

    fn stop(&self) {
        if let Some(socket) = &self.0.socket {
            // The error says that the socket is down already.
            let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
        }
        for task in self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
    }

    /// Stores the present time in one of the two counters.
    fn note_movement(&self, counter: &AtomicU64) {
        counter.store(self.0.created.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Ends the pipe when nothing came for `silence` and nothing could be sent for `stall`: then our pings are unanswered.
    /// While bytes move in either direction the pipe lives, however late the pong.
    pub(crate) fn watch_silence(&self, silence: Duration, stall: Duration) {
        let inner = Arc::downgrade(&self.0);
        let mut end = self.0.end.subscribe();
        tokio::spawn(async move {
            loop {
                // One long sleep, not a short interval: an idle bridge wakes up for this no more often than for its pings.
                let wait = {
                    let Some(inner) = inner.upgrade() else { return };
                    let now = inner.created.elapsed();
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
                    _ = end.wait_for(Option::is_some) => return,
                    () = tokio::time::sleep(wait) => {}
                }
            }
        });
    }
}

/// A pipe that reports its movements and its end to a handle.
pub(crate) struct MonitoredPipe<T> {
    inner: T,
    handle: Handle,
}

impl<T> MonitoredPipe<T> {
    pub(crate) fn new(inner: T, handle: Handle) -> Self {
        Self { inner, handle }
    }
}

impl<T> Drop for MonitoredPipe<T> {
    fn drop(&mut self) {
        // The gRPC connection on this pipe has ended: an error of HTTP/2, or its last user let go of it.
        self.handle.end("the connection to the agent was closed");
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for MonitoredPipe<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        match &polled {
            Poll::Ready(Ok(())) if buf.filled().len() > before => self.handle.note_movement(&self.handle.0.read),
            Poll::Ready(Ok(())) => self.handle.note_break("the other side closed the link"),
            Poll::Ready(Err(_)) | Poll::Pending => {}
        }
        self.note_failure(&polled);
        polled
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for MonitoredPipe<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.note_write(polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.note_write(polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_flush(cx);
        self.note_failure(&polled);
        polled
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl<T> MonitoredPipe<T> {
    /// Notes the outcome of one write.
    fn note_write(&self, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(_)) = &polled {
            self.handle.note_movement(&self.handle.0.written);
        }
        self.note_failure(&polled);
        polled
    }

    fn note_failure<R>(&self, polled: &Poll<io::Result<R>>) {
        match polled {
            // rustls' text for a missing close_notify is a paragraph; replace it.
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
    async fn a_pipe_is_ended_only_after_silence_in_both_directions() {
        let (near, mut far) = tokio::io::duplex(64);
        let handle = Handle::new(None);
        let mut near = MonitoredPipe::new(near, handle.clone());
        handle.watch_silence(Duration::from_secs(45), Duration::from_secs(30));
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_secs(10)).await;
            far.write_all(b"x").await.unwrap();
            near.read_u8().await.unwrap();
        }
        assert_eq!(handle.end_reason(), None);
        // Sent bytes alone keep the pipe alive as well.
        for _ in 0..6 {
            tokio::time::sleep(Duration::from_secs(20)).await;
            near.write_all(b"x").await.unwrap();
        }
        assert_eq!(handle.end_reason(), None);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(handle.end_reason().unwrap().contains("45 s"));
        assert!(handle.has_broken());
    }

    #[tokio::test]
    async fn the_first_reason_of_an_end_is_kept() {
        let (near, far) = tokio::io::duplex(64);
        let handle = Handle::new(None);
        let mut near = MonitoredPipe::new(near, handle.clone());
        drop(far);
        assert_eq!(near.read(&mut [0]).await.unwrap(), 0);
        handle.end("too late");
        assert_eq!(handle.end_reason().unwrap(), "the other side closed the link");
        assert!(handle.has_broken());
    }

    #[tokio::test]
    async fn ending_a_pipe_is_not_counted_as_a_break() {
        let (near, far) = tokio::io::duplex(64);
        let handle = Handle::new(None);
        let mut near = MonitoredPipe::new(near, handle.clone());
        handle.end("nobody needs it");
        drop(far);
        assert_eq!(near.read(&mut [0]).await.unwrap(), 0);
        assert!(!handle.has_broken());
    }
}
