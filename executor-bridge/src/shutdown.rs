//! When the daemon is to end, and why: told by a signal or by a client's `stop`. Everybody who waits holds a clone.

use std::fmt;

use tokio::sync::watch;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// A client asked for it.
    Asked,
    /// A signal came, as when the package is replaced.
    Signal(&'static str),
    Idle,
    /// The Zuul build that it served has ended.
    BuildOver,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Asked => f.write_str("a client asked the bridge to stop"),
            Why::Signal(name) => write!(f, "it was told to by {name}"),
            Why::Idle => f.write_str("nobody used it"),
            Why::BuildOver => f.write_str("the build is over"),
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Shutdown(watch::Sender<Option<Why>>);

impl Default for Shutdown {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Shutdown {
    /// The first reason counts.
    pub(crate) fn begin(&self, reason: Why) {
        self.0.send_if_modified(|told| {
            let first = told.is_none();
            told.get_or_insert(reason);
            first
        });
    }

    pub(crate) fn begun(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// Waits for the end to be asked for; its reason.
    pub(crate) async fn wait(&self) -> Why {
        let mut told = self.0.subscribe();
        let reason = told.wait_for(Option::is_some).await.map(|reason| *reason);
        // We hold a sender ourselves: it cannot be gone.
        reason.ok().flatten().unwrap_or(Why::Idle)
    }
}
