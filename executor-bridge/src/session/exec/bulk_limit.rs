//! How many of the commands that move much run at once. They take all the processor time there is, here and in the pod: beside fifty of
//! them whoever else wants some waits behind fifty others, and all fifty are done no sooner than a few at a time (ADR 12). `exec` asks.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

/// As many as this machine has cores, and not fewer: one waits for the other side while the other works.
const MIN_PERMITS: usize = 2;
/// When none has begun or ended for so long, those that run may wait for somebody, or take long: one more begins.
const STALL_TIME: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(crate) struct BulkLimiter {
    permits: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When a command began or ended.
    last_change: Instant,
    /// When places beyond the usual ones were made, each for one of the commands that ran then; the earliest first.
    extra_permits: Vec<Instant>,
}

/// Counts until it is dropped.
#[derive(Debug)]
pub(crate) struct BulkPermit {
    permit: Option<OwnedSemaphorePermit>,
    started: Instant,
    limiter: Arc<BulkLimiter>,
}

impl BulkLimiter {
    pub(crate) fn for_this_machine() -> Self {
        Self::new(std::thread::available_parallelism().map_or(MIN_PERMITS, |cores| MIN_PERMITS.max(cores.get())))
    }

    fn new(permits: usize) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(permits)),
            state: Mutex::new(State {
                last_change: Instant::now(),
                extra_permits: Vec::new(),
            }),
        }
    }

    /// First come, first served.
    pub(crate) async fn acquire(self: &Arc<Self>) -> BulkPermit {
        let permit = self.permits.clone().acquire_owned();
        tokio::pin!(permit);
        let permit = loop {
            let stalled = self.state().last_change + STALL_TIME;
            tokio::select! {
                biased;
                permit = &mut permit => break permit.expect("nobody closes it"),
                () = sleep_until(stalled) => self.add_permit(),
            }
        };
        let started = Instant::now();
        self.state().last_change = started;
        BulkPermit {
            permit: Some(permit),
            started,
            limiter: self.clone(),
        }
    }

    /// For the first in the queue, unless another one in it has done so.
    fn add_permit(&self) {
        let mut state = self.state();
        if state.last_change.elapsed() >= STALL_TIME {
            let now = Instant::now();
            state.last_change = now;
            state.extra_permits.push(now);
            self.permits.add_permits(1);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for BulkPermit {
    fn drop(&mut self) {
        let mut state = self.limiter.state();
        state.last_change = Instant::now();
        // One of those that stood still has ended, and needs no other place beside its own. Whoever else ends hands his place on, or
        // the next in the queue would stand still as long again.
        if let Some(index) = state.extra_permits.iter().position(|added| *added > self.started) {
            state.extra_permits.remove(index);
            self.permit.take().expect("dropped once").forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_millis(1);

    async fn is_full(limiter: &Arc<BulkLimiter>) -> bool {
        timeout(SOON, limiter.acquire()).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn who_comes_late_begins_when_another_ends() {
        let limiter = Arc::new(BulkLimiter::new(2));
        let (first, _second) = (limiter.acquire().await, limiter.acquire().await);
        assert!(is_full(&limiter).await);
        drop(first);
        let third = timeout(SOON, limiter.acquire()).await.unwrap();
        assert!(is_full(&limiter).await);
        drop(third);
    }

    #[tokio::test(start_paused = true)]
    async fn commands_that_end_for_no_one_keep_none_from_beginning() {
        let limiter = Arc::new(BulkLimiter::new(1));
        let started = Instant::now();
        let mut running = Vec::new();
        for number in 0..4 {
            running.push(limiter.acquire().await);
            assert_eq!(started.elapsed(), STALL_TIME * number);
        }
        // Their places go with them, but for the usual one.
        running.clear();
        let _first = limiter.acquire().await;
        assert!(is_full(&limiter).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_behind_one_that_stands_still_waits_once() {
        let limiter = Arc::new(BulkLimiter::new(1));
        let started = Instant::now();
        let still = limiter.acquire().await;
        for _ in 0..20 {
            drop(limiter.acquire().await);
        }
        assert_eq!(started.elapsed(), STALL_TIME);
        drop(still);
        let _only = limiter.acquire().await;
        assert!(is_full(&limiter).await);
    }

    #[tokio::test(start_paused = true)]
    async fn those_that_wait_begin_one_by_one() {
        let limiter = Arc::new(BulkLimiter::new(1));
        let _running = limiter.acquire().await;
        let started = Instant::now();
        let wait = || {
            let limiter = limiter.clone();
            tokio::spawn(async move { (limiter.acquire().await, started.elapsed()) })
        };
        let (second, third) = (wait(), wait());
        let (_second, after) = second.await.unwrap();
        assert_eq!(after, STALL_TIME);
        let (_third, after) = third.await.unwrap();
        assert_eq!(after, STALL_TIME * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn who_gives_up_takes_no_place() {
        let limiter = Arc::new(BulkLimiter::new(1));
        let first = limiter.acquire().await;
        assert!(is_full(&limiter).await);
        drop(first);
        assert!(!is_full(&limiter).await);
    }
}
