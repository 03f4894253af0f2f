//! When `[Zuul] Log not found` is said: Zuul's callback looks whether its task was skipped, or has ended, only when a line
//! comes. Often at first, when a skipped task waits for it; seldom later, for logs that never come.

use std::time::Duration;

use tokio::time::Instant;

const OFTEN: Duration = Duration::from_millis(50);
const SELDOM: Duration = Duration::from_millis(500);
const FIRST: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct Rhythm {
    begun: Instant,
    next: Instant,
}

impl Rhythm {
    /// The first line is due at once.
    pub(super) fn begin() -> Self {
        let now = Instant::now();
        Self { begun: now, next: now }
    }

    /// Waits until a line is due.
    pub(super) async fn due(&self) {
        tokio::time::sleep_until(self.next).await;
    }

    /// A line was said now.
    pub(super) fn said(&mut self) {
        let now = Instant::now();
        let pause = match now.duration_since(self.begun) < FIRST {
            true => OFTEN,
            false => SELDOM,
        };
        self.next = now + pause;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn often_for_two_seconds_then_seldom() {
        let begun = Instant::now();
        let mut rhythm = Rhythm::begin();
        let mut times = Vec::new();
        while begun.elapsed() < Duration::from_secs(4) {
            rhythm.due().await;
            times.push(begun.elapsed().as_millis());
            rhythm.said();
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
