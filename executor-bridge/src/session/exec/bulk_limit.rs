//! How many of the commands that move much run at once. They take all the processor time there is, here and in the pod: beside fifty of
//! them whoever else wants some waits behind fifty others, and all fifty are done no sooner than a few at a time (ADR 12). `exec` asks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

/// As many as this machine has cores, and not fewer: one waits for the other side while the other works.
const LEAST: usize = 2;
/// When none has begun or ended for so long, those that run may wait for somebody, or take long: one more begins.
const STALL: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(crate) struct BulkLimiter {
    places: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When a command began or ended.
    moved: Instant,
    /// When places beyond the usual ones were made, each for one of the commands that ran then; the earliest first.
    widened: Vec<Instant>,
}

/// Counts until it is dropped.
#[derive(Debug)]
pub(crate) struct BulkPermit {
    place: Option<OwnedSemaphorePermit>,
    begun: Instant,
    turns: Arc<BulkLimiter>,
}

impl BulkLimiter {
    pub(crate) fn of_this_machine() -> Self {
        Self::new(std::thread::available_parallelism().map_or(LEAST, |cores| LEAST.max(cores.get())))
    }

    fn new(places: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(places)),
            state: Mutex::new(State {
                moved: Instant::now(),
                widened: Vec::new(),
            }),
        }
    }

    /// First come, first served.
    pub(crate) async fn take(self: &Arc<Self>) -> BulkPermit {
        let place = self.places.clone().acquire_owned();
        tokio::pin!(place);
        let place = loop {
            let stalled = self.state().moved + STALL;
            tokio::select! {
                biased;
                place = &mut place => break place.expect("nobody closes it"),
                () = sleep_until(stalled) => self.widen(),
            }
        };
        let begun = Instant::now();
        self.state().moved = begun;
        BulkPermit {
            place: Some(place),
            begun,
            turns: self.clone(),
        }
    }

    /// For the first in the queue, unless another one in it has done so.
    fn widen(&self) {
        let mut state = self.state();
        if state.moved.elapsed() >= STALL {
            let now = Instant::now();
            state.moved = now;
            state.widened.push(now);
            self.places.add_permits(1);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for BulkPermit {
    fn drop(&mut self) {
        let mut state = self.turns.state();
        state.moved = Instant::now();
        // One of those that stood still has ended, and needs no other place beside its own. Whoever else ends hands his place on, or
        // the next in the queue would stand still as long again.
        if let Some(index) = state.widened.iter().position(|widened| *widened > self.begun) {
            state.widened.remove(index);
            self.place.take().expect("dropped once").forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_millis(1);

    async fn is_full(turns: &Arc<BulkLimiter>) -> bool {
        timeout(SOON, turns.take()).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_late_begins_when_another_ends() {
        let turns = Arc::new(BulkLimiter::new(2));
        let (first, _second) = (turns.take().await, turns.take().await);
        assert!(is_full(&turns).await);
        drop(first);
        let third = timeout(SOON, turns.take()).await.unwrap();
        assert!(is_full(&turns).await);
        drop(third);
    }

    #[tokio::test(start_paused = true)]
    async fn commands_that_end_for_no_one_keep_none_from_beginning() {
        let turns = Arc::new(BulkLimiter::new(1));
        let begun = Instant::now();
        let mut running = Vec::new();
        for number in 0..4 {
            running.push(turns.take().await);
            assert_eq!(begun.elapsed(), STALL * number);
        }
        // Their places go with them, but for the usual one.
        running.clear();
        let _first = turns.take().await;
        assert!(is_full(&turns).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_behind_one_that_stands_still_waits_once() {
        let turns = Arc::new(BulkLimiter::new(1));
        let begun = Instant::now();
        let still = turns.take().await;
        for _ in 0..20 {
            drop(turns.take().await);
        }
        assert_eq!(begun.elapsed(), STALL);
        drop(still);
        let _only = turns.take().await;
        assert!(is_full(&turns).await);
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_wait_begin_one_by_one() {
        let turns = Arc::new(BulkLimiter::new(1));
        let _running = turns.take().await;
        let begun = Instant::now();
        let wait = || {
            let turns = turns.clone();
            tokio::spawn(async move { (turns.take().await, begun.elapsed()) })
        };
        let (second, third) = (wait(), wait());
        let (_second, after) = second.await.unwrap();
        assert_eq!(after, STALL);
        let (_third, after) = third.await.unwrap();
        assert_eq!(after, STALL * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_takes_no_place() {
        let turns = Arc::new(BulkLimiter::new(1));
        let first = turns.take().await;
        assert!(is_full(&turns).await);
        drop(first);
        assert!(!is_full(&turns).await);
    }
}
