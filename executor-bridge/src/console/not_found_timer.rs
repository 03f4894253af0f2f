//! Times the line `[Zuul] Log not found`. Zuul's callback checks whether its task was skipped or has ended only when a
//! line comes. The lines come often at first, because a skipped task waits for one, and seldom later, for logs that
//! never come.

use std::time::Duration;

use tokio::time::Instant;

/// Interval between lines in the first phase.
const FIRST_INTERVAL: Duration = Duration::from_millis(50);
/// Interval between lines after the first phase.
const LATER_INTERVAL: Duration = Duration::from_millis(500);
/// Length of the first phase.
const FIRST_PHASE: Duration = Duration::from_secs(2);

/// Timer of the next line.
#[derive(Debug)]
pub(super) struct NotFoundTimer {
    started: Instant,
    next: Instant,
}

impl NotFoundTimer {
    /// Makes a timer whose first line is due at once.
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            started: now,
            next: now,
        }
    }

    /// Waits until the next line is due.
    pub(super) async fn wait_until_due(&self) {
        tokio::time::sleep_until(self.next).await;
    }

    /// Notes that a line was sent now. The next one is due after `least` or later.
    pub(super) fn restart(&mut self, least: Duration) {
        let now = Instant::now();
        let is_first_phase = now.duration_since(self.started) < FIRST_PHASE;
        let interval = if is_first_phase { FIRST_INTERVAL } else { LATER_INTERVAL };
        self.next = now + interval.max(least);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn lines_come_often_for_two_seconds_and_then_seldom() {
        let started = Instant::now();
        let mut timer = NotFoundTimer::new();
        let mut times = Vec::new();
        while started.elapsed() < Duration::from_secs(4) {
            timer.wait_until_due().await;
            times.push(started.elapsed().as_millis());
            timer.restart(Duration::ZERO);
        }
        assert_eq!(times[..3], [0, 50, 100]);
        let early = times.iter().filter(|time| **time < 2000).count();
        assert!((38..=40).contains(&early), "{times:?}");
        let late: Vec<_> = times.windows(2).filter(|pair| pair[0] >= 2000).collect();
        assert!(
            late.iter().all(|pair| (500..=502).contains(&(pair[1] - pair[0]))),
            "{times:?}"
        );
    }
}
