//! How many connections a listener has at once. A connection is a newcomer until its peer has begun HTTP/2. Newcomers are few and have
//! little time; when there are too many, the ones that have waited for a while go, so that silent peers keep nobody out. `listener` and
//! `direct` ask for a place for each connection; it gives no place to a peer that it knows nothing of but that it connected.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep_until};

/// Most connections of one listener. A bridge has two, and each may hold descriptors and buffers.
const MAX_CONNECTIONS: usize = 256;
/// Time that a newcomer has. A bridge behind an API server begins HTTP/2 only after it has read the first line of its proxy.
const NEWCOMER_TIME: Duration = Duration::from_secs(10);
/// Time that a newcomer has at least, also while others wait for its place.
const CROWDED_TIME: Duration = Duration::from_secs(1);

/// The places of one listener.
#[derive(Debug)]
pub(super) struct Entrance {
    places: Arc<Semaphore>,
    newcomers: Arc<Semaphore>,
    /// True while somebody wants to come in and there is no room for a newcomer.
    crowded: watch::Sender<bool>,
}

/// A place of a connection. The drop gives it back.
#[derive(Debug)]
pub(super) struct Admission(#[expect(dead_code, reason = "its drop gives the place back")] OwnedSemaphorePermit);

/// A connection whose peer has not begun HTTP/2. The drop makes room for another one.
#[derive(Debug)]
pub(super) struct Newcomer {
    place: OwnedSemaphorePermit,
    room: OwnedSemaphorePermit,
    crowded: watch::Receiver<bool>,
    since: Instant,
}

impl Entrance {
    /// Makes an entrance with room for this many newcomers at once.
    pub(super) fn new(newcomers: usize) -> Self {
        Self {
            places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            newcomers: Arc::new(Semaphore::new(newcomers)),
            crowded: watch::Sender::new(false),
        }
    }

    /// Waits for a place. The caller accepts the connection afterwards: until then it costs this process nothing.
    pub(super) async fn enter(&self) -> Newcomer {
        if let Some(newcomer) = self.try_enter() {
            return newcomer;
        }
        // The semaphores are never closed.
        let room = self.newcomers.clone().acquire_owned().await.expect("it is open");
        self.crowded.send_if_modified(std::mem::take);
        let place = self.places.clone().acquire_owned().await.expect("it is open");
        self.newcomer(place, room)
    }

    /// Returns a place if there is one.
    pub(super) fn try_enter(&self) -> Option<Newcomer> {
        let room = self.newcomers.clone().try_acquire_owned().ok();
        let is_crowded = room.is_none();
        self.crowded
            .send_if_modified(|crowded| std::mem::replace(crowded, is_crowded) != is_crowded);
        let place = self.places.clone().try_acquire_owned().ok()?;
        Some(self.newcomer(place, room?))
    }

    fn newcomer(&self, place: OwnedSemaphorePermit, room: OwnedSemaphorePermit) -> Newcomer {
        Newcomer {
            place,
            room,
            crowded: self.crowded.subscribe(),
            since: Instant::now(),
        }
    }
}

impl Newcomer {
    /// Begins the time of a newcomer that was given its place before its connection came.
    pub(super) fn arrive(&mut self) {
        self.since = Instant::now();
    }

    /// Waits for a peer's introduction; `None` if its time has passed.
    pub(super) async fn wait_for<T>(&mut self, introduction: impl Future<Output = T>) -> Option<T> {
        let since = self.since;
        let crowded = &mut self.crowded;
        let pushed_out = async {
            sleep_until(since + CROWDED_TIME).await;
            if crowded.wait_for(|crowded| *crowded).await.is_err() {
                // The listener has ended; the connection may go on.
                std::future::pending().await
            }
        };
        tokio::select! {
            biased;
            introduced = introduction => Some(introduced),
            () = sleep_until(since + NEWCOMER_TIME) => None,
            () = pushed_out => None,
        }
    }

    /// Returns the place for good, and the room for the next newcomer.
    pub(super) fn settle(self) -> (Admission, OwnedSemaphorePermit) {
        (Admission(self.place), self.room)
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    /// Returns how long a silent newcomer stays.
    async fn stay(mut newcomer: Newcomer) -> Duration {
        let begun = Instant::now();
        assert!(newcomer.wait_for(pending::<()>()).await.is_none());
        begun.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_newcomer_goes_sooner_when_others_wait() {
        let entrance = Entrance::new(2);
        let first = tokio::spawn(stay(entrance.enter().await));
        assert!(first.await.unwrap() >= NEWCOMER_TIME);
        let silent = [entrance.enter().await, entrance.enter().await].map(|newcomer| tokio::spawn(stay(newcomer)));
        let begun = Instant::now();
        let mut third = entrance.enter().await;
        assert!(begun.elapsed() < CROWDED_TIME * 2);
        // It is not crowded any more: the third one has all its time, and speaks.
        for newcomer in silent {
            assert!(newcomer.await.unwrap() <= NEWCOMER_TIME);
        }
        assert_eq!(third.wait_for(async { 7 }).await, Some(7));
    }

    #[tokio::test(start_paused = true)]
    async fn settled_connections_make_room_for_newcomers_and_are_limited_too() {
        let entrance = Entrance::new(1);
        let mut settled = Vec::new();
        for _ in 0..MAX_CONNECTIONS {
            settled.push(entrance.try_enter().unwrap().settle().0);
        }
        assert!(entrance.try_enter().is_none());
        let waits = entrance.enter();
        tokio::pin!(waits);
        assert!(tokio::time::timeout(NEWCOMER_TIME, &mut waits).await.is_err());
        settled.pop();
        waits.await;
    }
}
