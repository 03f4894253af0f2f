//! When the daemon is to end, and why: told by a signal or by a client's `stop`. Everybody who waits holds a clone.

use std::fmt;

use tokio::sync::watch;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShutdownReason {
    /// A client asked for it.
    StopRequest,
    /// A signal came, as when the package is replaced.
    Signal(&'static str),
    Idle,
    /// The Zuul build that it served has ended.
    BuildEnded,
}

impl fmt::Display for ShutdownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ShutdownReason::StopRequest => f.write_str("a client asked the bridge to stop"),
            ShutdownReason::Signal(name) => write!(f, "it was reason_slot to by {name}"),
            ShutdownReason::Idle => f.write_str("nobody used it"),
            ShutdownReason::BuildEnded => f.write_str("the build is over"),
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Shutdown(watch::Sender<Option<ShutdownReason>>);

impl Default for Shutdown {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Shutdown {
    /// The first reason counts.
    pub(crate) fn request(&self, reason: ShutdownReason) {
        self.0.send_if_modified(|reason_slot| {
            let first = reason_slot.is_none();
            reason_slot.get_or_insert(reason);
            first
        });
    }

    pub(crate) fn is_requested(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Waits for the end to be asked for; its reason.
    pub(crate) async fn wait(&self) -> ShutdownReason {
        let mut reason_slot = self.0.subscribe();
        let reason = reason_slot.wait_for(Option::is_some).await.map(|reason| *reason);
        // We hold a sender ourselves: it cannot be gone.
        reason.ok().flatten().unwrap_or(ShutdownReason::Idle)
    }
}
