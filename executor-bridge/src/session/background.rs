//! Calls to an agent that no client waits for. The operations of `session` start them. `daemon` waits for them when the
//! bridge ends.

use tokio_util::task::TaskTracker;

/// Tasks that run on their own until the bridge ends.
#[derive(Debug, Default)]
pub(crate) struct BackgroundCalls(TaskTracker);

impl BackgroundCalls {
    /// Starts a call in a task of its own.
    pub(crate) fn send(&self, call: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(call);
    }

    /// Waits until all calls are done.
    pub(crate) async fn settle(&self) {
        self.0.close();
        self.0.wait().await;
    }
}
