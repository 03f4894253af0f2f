//! Pauses between tries of the same thing, longer and longer, with jitter, up to a limit.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::random;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// How long a link is sought again, and how often.
#[derive(Debug)]
pub(crate) struct Backoff {
    limit: Duration,
    begun: Option<Instant>,
    next: Duration,
}

impl Backoff {
    pub(crate) fn new(limit: Duration) -> Self {
        Self {
            limit,
            begun: None,
            next: FIRST_PAUSE,
        }
    }

    /// The first try is at once, later ones wait longer and longer; jittered, as many bridges lose the same API server.
    pub(crate) async fn pause(&mut self) {
        if self.begun.is_none() {
            self.begun = Some(Instant::now());
            return;
        }
        let [jitter] = random::bytes();
        sleep(self.next.mul_f32(0.5 + f32::from(jitter) / 255.0)).await;
        self.next = (self.next * 2).min(LONGEST_PAUSE);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.begun.is_some_and(|begun| begun.elapsed() > self.limit)
    }
}
