//! Calls to an agent that no client waits for. `session` starts them and settles them when the bridge ends.

use std::time::Duration;

use tokio_util::task::TaskTracker;

/// Tasks of their own that are waited for only when the bridge ends.
#[derive(Debug, Default)]
pub(crate) struct BackgroundCalls(TaskTracker);

impl BackgroundCalls {
    pub(crate) fn send(&self, call: impl Future<Output = ()> + Send + 'static) {
        self.0.spawn(call);
    }

    pub(crate) async fn settle(&self, limit: Duration) {
        self.0.close();
        // What is not done by then ends with the process.
        let _ = tokio::time::timeout(limit, self.0.wait()).await;
    }
}
