//! The end of one dial. Each step of the dial waits until then at most, so a container whose programs answer for ever keeps no dial
//! running. `container_exec` and `inject` keep it.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

/// Time that a dial may take longer because it copies an agent into the container: that of a megabyte per second.
const COPIED_PER_SECOND: u64 = 1_000_000;

#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    begin: Instant,
    limit: Duration,
}

impl Deadline {
    /// Begins a dial that takes `limit` at most.
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            begin: Instant::now(),
            limit,
        }
    }

    /// Adds the time for a copy of so many bytes.
    pub(super) fn extend(&mut self, bytes: usize) {
        self.limit += Duration::from_millis((bytes as u64).saturating_mul(1000) / COPIED_PER_SECOND);
    }

    /// Returns the time between the begin and the end of the dial, in seconds, for messages.
    pub(super) fn seconds(&self) -> u64 {
        self.limit.as_secs()
    }

    /// Waits for a step; `None`: the dial has to end before it.
    pub(super) async fn wait_for<T>(&self, step: impl Future<Output = T>) -> Option<T> {
        timeout_at(self.begin + self.limit, step).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_steps_together_end_in_time() {
        let mut deadline = Deadline::new(Duration::from_secs(5));
        let begin = Instant::now();
        for _ in 0..4 {
            assert_eq!(deadline.wait_for(sleep(Duration::from_secs(1))).await, Some(()));
        }
        assert_eq!(deadline.wait_for(pending::<()>()).await, None);
        assert_eq!(begin.elapsed().as_secs(), 5);
        deadline.extend(7_000_000);
        assert_eq!(deadline.wait_for(pending::<()>()).await, None);
        assert_eq!((begin.elapsed().as_secs(), deadline.seconds()), (12, 12));
    }
}
