//! Whether the daemon must end, and why: a signal, a client's `stop`, no use, or the end of a build. Every task that
//! waits holds a clone.

use std::fmt;

use tokio::sync::watch;

/// Reason for the daemon's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShutdownReason {
    /// A client sent `stop`.
    StopRequest,
    /// A signal of this name came, as when the package is replaced.
    Signal(&'static str),
    /// The bridge was unused for long enough.
    Idle,
    /// The Zuul build has ended.
    BuildEnded,
    /// The options of its clients resolve to something else now.
    Outdated,
}

impl fmt::Display for ShutdownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ShutdownReason::StopRequest => f.write_str("a client asked the bridge to stop"),
            ShutdownReason::Signal(name) => write!(f, "it received {name}"),
            ShutdownReason::Idle => f.write_str("the bridge was unused"),
            ShutdownReason::BuildEnded => f.write_str("the build has ended"),
            ShutdownReason::Outdated => f.write_str("the kubeconfig or the credentials have changed"),
        }
    }
}

/// Shared request to end.
#[derive(Debug, Clone)]
pub(crate) struct Shutdown(watch::Sender<Option<ShutdownReason>>);

impl Default for Shutdown {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Shutdown {
    /// Requests the shutdown. Only the first reason counts.
    pub(crate) fn request(&self, reason: ShutdownReason) {
        self.0.send_if_modified(|reason_slot| {
            let first = reason_slot.is_none();
            reason_slot.get_or_insert(reason);
            first
        });
    }

    /// Returns whether the shutdown is requested.
    pub(crate) fn is_requested(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Waits until the shutdown is requested; returns the reason.
    pub(crate) async fn wait(&self) -> ShutdownReason {
        let mut reason_slot = self.0.subscribe();
        let reason = reason_slot.wait_for(Option::is_some).await.map(|reason| *reason);
        // This value holds a sender, so the channel cannot be closed.
        reason.ok().flatten().unwrap_or(ShutdownReason::Idle)
    }
}
