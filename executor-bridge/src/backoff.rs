//! Pauses between attempts of the same operation. `Backoff` has a time limit and random pauses, for all code that dials; `DoublingPause` is
//! the bare sequence of pauses, for callers that decide by themselves when to stop.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::random;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A pause that doubles with each use, up to a longest pause.
#[derive(Debug)]
pub(crate) struct DoublingPause {
    next: Duration,
    longest: Duration,
}

impl DoublingPause {
    pub(crate) fn new(first: Duration, longest: Duration) -> Self {
        Self { next: first, longest }
    }

    /// Returns the present pause, and doubles it for the next call.
    pub(crate) fn advance(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        pause
    }

    pub(crate) async fn sleep(&mut self) {
        sleep(self.advance()).await;
    }
}

/// Attempts to reach something again, within a time limit: the first at once, later ones after longer and longer pauses.
#[derive(Debug)]
pub(crate) struct Backoff {
    limit: Duration,
    started: Option<Instant>,
    pause: DoublingPause,
}

impl Backoff {
    /// Makes a backoff whose time limit runs from its first attempt.
    pub(crate) fn new(limit: Duration) -> Self {
        Self {
            limit,
            started: None,
            pause: DoublingPause::new(FIRST_PAUSE, LONGEST_PAUSE),
        }
    }

    /// Waits before an attempt. The first attempt is made at once.
    pub(crate) async fn pause(&mut self) {
        if self.started.is_none() {
            self.started = Some(Instant::now());
            return;
        }
        sleep(self.pause.advance().mul_f32(0.5 + jitter())).await;
    }

    /// Waits before an attempt, and at least for `least`, which the other side asked for.
    pub(crate) async fn pause_at_least(&mut self, least: Duration) {
        let (_, ()) = tokio::join!(sleep(least), self.pause());
    }

    /// Returns whether the time limit has passed.
    pub(crate) fn is_over(&self) -> bool {
        self.started.is_some_and(|started| started.elapsed() > self.limit)
    }

    /// Tells whether the next attempt would begin within this limit if it had to wait for `least`. Each reason to try again has a limit.
    pub(crate) fn has_time_for(&self, least: Duration, limit: Duration) -> bool {
        self.started.is_none_or(|started| started.elapsed() + least <= limit)
    }
}

/// Returns a random number from 0 to 1. Many bridges lose the same API server at the same moment, and must not all dial again at once.
pub(crate) fn jitter() -> f32 {
    let [byte] = random::bytes();
    f32::from(byte) / 255.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_the_other_side_asks_for_counts_towards_the_limit() {
        let limit = Duration::from_secs(10);
        let mut backoff = Backoff::new(limit);
        assert!(backoff.has_time_for(Duration::from_secs(11), limit), "it has not begun");
        backoff.pause().await;
        assert!(backoff.has_time_for(Duration::from_secs(10), limit));
        let begun = Instant::now();
        backoff.pause_at_least(Duration::from_secs(4)).await;
        assert_eq!(begun.elapsed().as_secs(), 4);
        assert!(!backoff.has_time_for(Duration::from_secs(7), limit));
        assert!(backoff.has_time_for(Duration::from_secs(7), 2 * limit));
        assert!(!backoff.is_over());
    }

    #[test]
    fn a_pause_doubles_up_to_the_longest() {
        let mut pause = DoublingPause::new(Duration::from_millis(250), Duration::from_millis(600));
        let pauses = [(); 4].map(|()| pause.advance().as_millis());
        assert_eq!(pauses, [250, 500, 600, 600]);
    }
}
