//! Limit on the bulk commands that run at the same time. Bulk commands use all the processor time that they can get,
//! here and in the pod. Fifty at once would delay every other command, and would end no sooner than a few at a time
//! (ADR 12). `run` asks for a permit before it starts a bulk command.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

/// Least number of permits; with more cores, there is one permit per core. Two, because one command works while the
/// other waits for its peer.
const MIN_PERMITS: usize = 2;
/// If no bulk command starts or ends for this time, the running ones may be blocked or slow: one more is admitted.
const STALL_TIME: Duration = Duration::from_millis(500);

/// Limiter of bulk commands, shared by all clients of a bridge.
#[derive(Debug)]
pub(crate) struct BulkLimiter {
    permits: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When a command last started or ended.
    last_change: Instant,
    /// When each extra permit was added, oldest first. Each stands for one of the commands that ran at that time.
    extra_permits: Vec<Instant>,
}

/// Permit of one bulk command, held while the command runs.
#[derive(Debug)]
pub(crate) struct BulkPermit {
    permit: Option<OwnedSemaphorePermit>,
    started: Instant,
    limiter: Arc<BulkLimiter>,
}

impl BulkLimiter {
    /// Makes a limiter with one permit per core.
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

    /// Waits for a permit. Permits are given in the order of the calls.
    pub(crate) async fn acquire(self: &Arc<Self>) -> BulkPermit {
        let permit = self.permits.clone().acquire_owned();
        tokio::pin!(permit);
        let permit = loop {
            let stalled = self.state().last_change + STALL_TIME;
            tokio::select! {
                biased;
                permit = &mut permit => break permit.expect("the semaphore is never closed"),
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

    /// Adds one permit, unless another waiter has just done so.
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
        // This command is one of those that an extra permit stands for: drop one permit. Any other command passes its
        // permit on; otherwise the next waiter would wait for another `STALL_TIME`.
        if let Some(index) = state.extra_permits.iter().position(|added| *added > self.started) {
            state.extra_permits.remove(index);
            self.permit.take().expect("a permit is dropped once").forget();
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
    async fn the_next_command_starts_when_another_ends() {
        let limiter = Arc::new(BulkLimiter::new(2));
        let (first, _second) = (limiter.acquire().await, limiter.acquire().await);
        assert!(is_full(&limiter).await);
        drop(first);
        let third = timeout(SOON, limiter.acquire()).await.unwrap();
        assert!(is_full(&limiter).await);
        drop(third);
    }

    #[tokio::test(start_paused = true)]
    async fn commands_that_never_end_do_not_block_others() {
        let limiter = Arc::new(BulkLimiter::new(1));
        let started = Instant::now();
        let mut running = Vec::new();
        for number in 0..4 {
            running.push(limiter.acquire().await);
            assert_eq!(started.elapsed(), STALL_TIME * number);
        }
        // The extra permits go with the commands. The usual one stays.
        running.clear();
        let _first = limiter.acquire().await;
        assert!(is_full(&limiter).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_waits_only_once_for_a_blocked_command() {
        let limiter = Arc::new(BulkLimiter::new(1));
        let started = Instant::now();
        let blocked = limiter.acquire().await;
        for _ in 0..20 {
            drop(limiter.acquire().await);
        }
        assert_eq!(started.elapsed(), STALL_TIME);
        drop(blocked);
        let _only = limiter.acquire().await;
        assert!(is_full(&limiter).await);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_commands_start_one_after_another() {
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
    async fn a_caller_that_stops_waiting_takes_no_permit() {
        let limiter = Arc::new(BulkLimiter::new(1));
        let first = limiter.acquire().await;
        assert!(is_full(&limiter).await);
        drop(first);
        assert!(!is_full(&limiter).await);
    }
}
