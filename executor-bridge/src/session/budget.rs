//! The budget of one bridge: how many operations run at once, and how many bytes of clients and for clients it holds. Each client has a
//! floor that no other client can use up; what it gets beyond the floor comes from a pool that all share. `daemon` takes from it what
//! clients send, the operations take from it what they hold of an agent's answers. Knows neither sockets nor agents.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use podbridge_proto::limits::MAX_CHUNK;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until};

use crate::connections::Lane;
use crate::sys;

/// Most commands and transfers that run at once. Who comes later waits with its request.
const MAX_OPERATIONS: usize = 640;
/// Input of a client that the bridge holds in any case, until the agent has it, bytes. All floors and the pool together are 17 MiB, far
/// less than the 64 MiB window that an agent has for a connection: whatever commands leave unread, a cancel or a signal finds room.
const INPUT_FLOOR: usize = 8 << 10;
/// Input beyond the floors of all clients, bytes.
const INPUT_POOL: usize = 12 << 20;
/// Part of the pool that a client may have at once: twice what an agent takes before it acknowledges.
const FIRST_SHARE: usize = 1 << 20;
/// Part of the pool that a client may have when its command has taken as much: 400 MB/s at a round trip of 10 ms.
const LARGEST_SHARE: usize = 4 << 20;
/// Least size that one piece of input counts as, bytes: empty frames must not pile up either.
const LEAST_COST: usize = 256;
/// Length of a request or of inline input that is always held, bytes.
const REQUEST_FLOOR: usize = 8 << 10;
/// Longer requests of all operations, bytes.
const REQUEST_POOL: usize = 8 << 20;
/// Bytes that a byte of a request counts as: its words are kept one by one.
const REQUEST_COST: usize = 2;
/// Values of a request that are always held, such as the words of its command.
const VALUES_FLOOR: usize = 64;
/// Further values of the requests of all operations.
const VALUES_POOL: usize = 64 << 10;
/// Length of an answer for a client that is always held, bytes.
const REPLY_FLOOR: usize = 8 << 10;
/// Longer answers for all clients, bytes.
const REPLY_POOL: usize = 6 << 20;
/// Commands whose stream keeps a whole message of output. tonic's decoder keeps the memory of a stream's largest message, also while the
/// command says nothing, so it counts until the stream ends. Who finds no place keeps the floor, and the stream ends.
const MESSAGE_PLACES: usize = 64;
/// Time for which a stream may keep its place although others wait for one, and how soon after its last output it loses the place.
const PLACE_TIME: Duration = Duration::from_secs(1);
const QUIET_TIME: Duration = Duration::from_millis(50);
/// Downloads that receive at once. Each holds a part of a message that has not come whole; others wait for their turn.
const MAX_RECEIVING: usize = 32;
/// Times after which freed memory is given back to the system, when operations have ended or streams were let go. The second one is for what
/// the calls held that tell an agent of the ends.
const TRIM_DELAYS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(10)];
/// Least free memory that is given back, bytes. The next operation uses less than this again.
const LEAST_TRIM: usize = 4 << 20;
/// Flow-control windows that may be full because a client stands still, bytes over all connections of a lane. It is half the window of one
/// connection, so that streams whose clients read always find room.
const STANDING_CONTROL: usize = 8 << 20;
const STANDING_BULK: usize = 16 << 20;
/// Time for which a client that takes nothing counts as busy and not as standing still.
const BUSY_TIME: Duration = Duration::from_millis(50);

/// The budget; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Budget(Arc<Pools>);

#[derive(Debug)]
struct Pools {
    operations: Arc<Semaphore>,
    input: Arc<Semaphore>,
    requests: Arc<Semaphore>,
    values: Arc<Semaphore>,
    replies: Arc<Semaphore>,
    places: Arc<Semaphore>,
    /// How many wait for a place.
    places_wanted: watch::Sender<usize>,
    standing_control: Arc<Semaphore>,
    standing_bulk: Arc<Semaphore>,
    receiving: Arc<Semaphore>,
    /// A task will give memory back.
    trims: AtomicBool,
}

/// A part of one of the pools, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Credit(#[expect(dead_code, reason = "counts until it is dropped")] OwnedSemaphorePermit);

impl Default for Budget {
    fn default() -> Self {
        let pool = |size| Arc::new(Semaphore::new(size));
        Self(Arc::new(Pools {
            operations: pool(MAX_OPERATIONS),
            input: pool(INPUT_POOL),
            requests: pool(REQUEST_POOL),
            values: pool(VALUES_POOL),
            replies: pool(REPLY_POOL),
            places: pool(MESSAGE_PLACES),
            places_wanted: watch::Sender::new(0),
            standing_control: pool(STANDING_CONTROL),
            standing_bulk: pool(STANDING_BULK),
            receiving: pool(MAX_RECEIVING),
            trims: AtomicBool::new(false),
        }))
    }
}

impl Budget {
    /// Waits until one more operation may run.
    pub(crate) async fn operation(&self) -> Credit {
        take(&self.0.operations, 1).await
    }

    /// Waits until one more download may receive.
    pub(crate) async fn receiving(&self) -> Credit {
        take(&self.0.receiving, 1).await
    }

    /// Returns whether the next operation has to wait.
    pub(crate) fn is_busy(&self) -> bool {
        self.0.operations.available_permits() == 0
    }

    /// Waits until a request of this length may be read; `None`: it is short and always may.
    pub(crate) async fn request(&self, length: usize) -> Option<Credit> {
        if length <= REQUEST_FLOOR {
            return None;
        }
        Some(take(&self.0.requests, REQUEST_COST * length).await)
    }

    /// Waits until a request with so many values may be parsed; `None`: they are few, and it always may. An empty word takes three bytes of
    /// the request, and a hundred of the bridge's memory.
    pub(crate) async fn values(&self, count: usize) -> Option<Credit> {
        if count <= VALUES_FLOOR {
            return None;
        }
        Some(take(&self.0.values, count.min(VALUES_POOL)).await)
    }

    /// Returns whether input of this length may travel with its request, with the credit for it if it is long.
    pub(crate) fn inline_input(&self, length: usize) -> Result<Option<Credit>, Exhausted> {
        if length <= REQUEST_FLOOR {
            return Ok(None);
        }
        try_take(&self.0.requests, length).map(Some)
    }

    /// Makes the share of one client's input.
    pub(crate) fn input(&self) -> InputShare {
        // A client gets less at once when others leave theirs unread.
        let plenty = self.0.input.available_permits() >= INPUT_POOL / 2;
        let first = if plenty { FIRST_SHARE } else { 0 };
        InputShare(Arc::new(Share {
            floor: Arc::new(Semaphore::new(INPUT_FLOOR)),
            beyond: Arc::new(Semaphore::new(first)),
            growth: AtomicUsize::new(LARGEST_SHARE - first),
            pool: self.0.input.clone(),
        }))
    }

    /// Takes the next piece of an answer from its front, as large as the client's budget allows now.
    pub(crate) fn reply(&self, answer: &mut Bytes) -> (Bytes, Option<Credit>) {
        // A copy of a short piece, and a long one counts as a whole message: a piece keeps the memory of all that its stream has decoded with it.
        let copy = |answer: &mut Bytes| Bytes::copy_from_slice(&answer.split_to(answer.len().min(REPLY_FLOOR)));
        if answer.len() <= REPLY_FLOOR {
            return (copy(answer), None);
        }
        match try_take(&self.0.replies, answer.len().max(MAX_CHUNK)) {
            Ok(credit) => (std::mem::take(answer), Some(credit)),
            Err(Exhausted) => (copy(answer), None),
        }
    }

    /// Cuts output that has come from an agent to what the bridge may hold of it, and returns how much was cut off, which has to come again.
    /// `place`: the place of its stream, taken if there is one.
    pub(crate) fn cut_output(&self, output: &mut Bytes, place: &mut Option<Credit>) -> usize {
        let length = output.len();
        if length <= REPLY_FLOOR || place.is_some() {
            return 0;
        }
        *place = try_take(&self.0.places, 1).ok();
        if place.is_some() {
            return 0;
        }
        // A copy: the piece must not keep the whole output in memory.
        *output = Bytes::copy_from_slice(&output[..REPLY_FLOOR]);
        self.trim_soon();
        length - REPLY_FLOOR
    }

    /// Waits for the place of a stream.
    pub(crate) async fn message_place(&self) -> Credit {
        let wanted = &self.0.places_wanted;
        wanted.send_modify(|count| *count += 1);
        let _wants = Wants(wanted);
        take(&self.0.places, 1).await
    }

    /// Waits until a stream has to give its place up: others wait for one, and the stream was opened at `since` and had its last output at
    /// `last`.
    pub(crate) async fn place_wanted(&self, since: Instant, last: Option<Instant>) {
        let turn_ends = since + PLACE_TIME;
        sleep_until(last.map_or(turn_ends, |last| turn_ends.min(last + QUIET_TIME))).await;
        // The sender is not dropped before `self`.
        let _ = self.0.places_wanted.subscribe().wait_for(|count| *count > 0).await;
    }

    /// Returns the credit for an answer that waits for a disk.
    pub(crate) fn held_answer(&self, length: usize) -> Result<Credit, Exhausted> {
        try_take(&self.0.replies, length)
    }

    /// Waits until a stream of this lane has to be let go, because its client stands still and too many others do.
    pub(crate) async fn stall_timeout(&self, lane: Lane) {
        sleep(BUSY_TIME).await;
        let standing = match lane {
            Lane::Control => &self.0.standing_control,
            Lane::Bulk => &self.0.standing_bulk,
        };
        if let Ok(_standing) = try_take(standing, lane.stream_window() as usize) {
            std::future::pending::<()>().await;
        }
        self.trim_soon();
    }

    /// Gives memory back to the system after a while, if much is free: what operations held is freed in pieces between others.
    pub(crate) fn trim_soon(&self) {
        if self.0.trims.swap(true, Ordering::Relaxed) {
            return;
        }
        let pools = self.0.clone();
        tokio::spawn(async move {
            for delay in TRIM_DELAYS {
                sleep(delay).await;
                pools.trims.store(false, Ordering::Relaxed);
                if sys::free_memory() >= LEAST_TRIM {
                    sys::give_memory_back();
                }
            }
        });
    }
}

/// Counts one that waits for a place.
struct Wants<'a>(&'a watch::Sender<usize>);

impl Drop for Wants<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// The pool has less than what was asked for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Exhausted;

async fn take(pool: &Arc<Semaphore>, count: usize) -> Credit {
    let permit = pool.clone().acquire_many_owned(count as u32).await;
    Credit(permit.expect("the semaphore is never closed"))
}

fn try_take(pool: &Arc<Semaphore>, count: usize) -> Result<Credit, Exhausted> {
    let permit = pool.clone().try_acquire_many_owned(count as u32);
    permit.map(Credit).map_err(|_| Exhausted)
}

/// The input of one client that the bridge may hold; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct InputShare(Arc<Share>);

#[derive(Debug)]
struct Share {
    floor: Arc<Semaphore>,
    /// What the client may have of the pool. It grows by what its command takes.
    beyond: Arc<Semaphore>,
    /// Bytes by which `beyond` may still grow.
    growth: AtomicUsize,
    pool: Arc<Semaphore>,
}

impl InputShare {
    /// Waits until the bridge may hold at least a part of `wanted` bytes more; `bytes` of the credit says how many, at most one chunk.
    /// Cancel-safe.
    pub(crate) async fn charge(&self, wanted: usize) -> InputCredit {
        let wanted = wanted.clamp(1, MAX_CHUNK);
        let cost = wanted.max(LEAST_COST);
        let at_floor = cost.min(INPUT_FLOOR);
        let of_pool = if self.0.available() >= cost { cost } else { at_floor };
        let credit = |bytes: usize, cost, held| InputCredit {
            bytes,
            cost,
            share: self.0.clone(),
            held,
        };
        tokio::select! {
            biased;
            held = self.0.take_of_pool(of_pool) => credit(wanted.min(of_pool), of_pool, held),
            floor = self.0.floor.clone().acquire_many_owned(at_floor as u32) => {
                let floor = floor.expect("the semaphore is never closed");
                credit(wanted.min(at_floor), at_floor, [Some(floor), None])
            }
        }
    }
}

impl InputShare {
    /// Tells whether the client can send nothing more until the agent has taken something.
    pub(crate) fn is_used_up(&self) -> bool {
        self.0.floor.available_permits() < LEAST_COST && self.0.available() < INPUT_FLOOR
    }
}

impl Share {
    /// Returns how much of the pool the client may have now.
    fn available(&self) -> usize {
        self.beyond.available_permits().min(self.pool.available_permits())
    }

    async fn take_of_pool(&self, cost: usize) -> [Option<OwnedSemaphorePermit>; 2] {
        let beyond = self.beyond.clone().acquire_many_owned(cost as u32).await;
        let pool = self.pool.clone().acquire_many_owned(cost as u32).await;
        [beyond.ok(), pool.ok()]
    }
}

/// Permission to hold a piece of a client's input. It is dropped when the agent has the piece, and the client may then send as much again.
#[derive(Debug)]
pub(crate) struct InputCredit {
    bytes: usize,
    cost: usize,
    share: Arc<Share>,
    #[expect(dead_code, reason = "counts until it is dropped")]
    held: [Option<OwnedSemaphorePermit>; 2],
}

impl InputCredit {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
impl InputCredit {
    /// Makes a credit of a budget of its own.
    pub(crate) fn unshared() -> Self {
        Self {
            bytes: 0,
            cost: 0,
            share: Budget::default().input().0,
            held: [None, None],
        }
    }
}

impl Drop for InputCredit {
    fn drop(&mut self) {
        let take = |growth: usize| Some(growth.saturating_sub(self.cost));
        let before = self
            .share
            .growth
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        let grown = before.unwrap_or(0).min(self.cost);
        self.share.beyond.add_permits(grown);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    /// Holds input until no more is given; returns it.
    async fn hold_all(share: &InputShare) -> Vec<InputCredit> {
        let mut held = Vec::new();
        while let Ok(credit) = timeout(Duration::from_millis(1), share.charge(MAX_CHUNK)).await {
            held.push(credit);
        }
        held
    }

    fn sum(held: &[InputCredit]) -> usize {
        held.iter().map(InputCredit::bytes).sum()
    }

    #[tokio::test(start_paused = true)]
    async fn unread_input_of_many_clients_stays_within_the_budget_and_leaves_a_floor_to_each() {
        let budget = Budget::default();
        let shares: Vec<_> = (0..200).map(|_| budget.input()).collect();
        let mut held = Vec::new();
        for share in &shares {
            held.push(hold_all(share).await);
        }
        assert_eq!(sum(&held[0]), FIRST_SHARE + INPUT_FLOOR);
        let total: usize = held.iter().map(|held| sum(held)).sum();
        assert!(total <= INPUT_POOL + 200 * INPUT_FLOOR, "{total}");
        // A client that comes now, and whose command reads, moves on and gets more.
        let late = budget.input();
        let before = hold_all(&late).await;
        assert!(sum(&before) >= INPUT_FLOOR, "{}", sum(&before));
        drop(held);
        drop(before);
        assert!(sum(&hold_all(&late).await) > INPUT_FLOOR);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_gets_more_as_its_command_takes_input() {
        let share = Budget::default().input();
        let mut most = 0;
        for _ in 0..10 {
            let held = hold_all(&share).await;
            most = sum(&held);
        }
        assert_eq!(most, LARGEST_SHARE + INPUT_FLOOR);
    }

    #[tokio::test(start_paused = true)]
    async fn empty_pieces_count_too() {
        let share = Budget::default().input();
        let mut held = Vec::new();
        while let Ok(credit) = timeout(Duration::from_millis(1), share.charge(0)).await {
            held.push(credit);
        }
        assert_eq!(held.len(), (FIRST_SHARE + INPUT_FLOOR) / LEAST_COST);
    }

    #[test]
    fn long_answers_become_short_pieces_when_the_pool_is_empty() {
        let budget = Budget::default();
        let answer = Bytes::from(vec![b'x'; MAX_CHUNK]);
        let mut held = Vec::new();
        let piece = loop {
            let mut rest = answer.clone();
            match budget.reply(&mut rest) {
                (piece, Some(credit)) => {
                    assert!(piece.len() == MAX_CHUNK && rest.is_empty());
                    held.push(credit);
                }
                (piece, None) => break (piece, rest),
            }
        };
        assert_eq!(held.len(), REPLY_POOL / MAX_CHUNK);
        assert_eq!((piece.0.len(), piece.1.len()), (REPLY_FLOOR, MAX_CHUNK - REPLY_FLOOR));
        held.clear();
        assert!(budget.reply(&mut answer.clone()).1.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn output_is_cut_to_the_floor_when_other_streams_have_all_places() {
        let budget = Budget::default();
        let message = Bytes::from(vec![b'x'; MAX_CHUNK]);
        let cut = |place: &mut Option<Credit>| {
            let mut output = message.clone();
            let cut = budget.cut_output(&mut output, place);
            assert_eq!(output.len() + cut, MAX_CHUNK);
            cut
        };
        let mut places: Vec<_> = (0..MESSAGE_PLACES).map(|_| None).collect();
        for place in &mut places {
            assert_eq!((cut(place), cut(place)), (0, 0));
        }
        let mut late = None;
        assert_eq!(cut(&mut late), MAX_CHUNK - REPLY_FLOOR);
        let mut short = message.slice(..REPLY_FLOOR);
        assert_eq!(budget.cut_output(&mut short, &mut late), 0);
        // Nobody gives a place up that nobody wants.
        let hour = Duration::from_secs(3600);
        let begun = Instant::now();
        assert!(timeout(hour, budget.place_wanted(begun, Some(begun))).await.is_err());
        {
            let mut waiting = Box::pin(budget.message_place());
            assert!(timeout(QUIET_TIME, &mut waiting).await.is_err());
            let begun = Instant::now();
            budget.place_wanted(begun, Some(begun)).await;
            assert_eq!(begun.elapsed(), QUIET_TIME);
            budget.place_wanted(begun, None).await;
            assert_eq!(begun.elapsed(), PLACE_TIME);
            places.pop();
            late = Some(waiting.await);
        }
        assert!(timeout(hour, budget.place_wanted(begun, None)).await.is_err());
        assert_eq!(cut(&mut late), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_streams_may_stand_still() {
        let budget = Budget::default();
        let let_go = async |lane| {
            timeout(Duration::from_secs(3600), budget.stall_timeout(lane))
                .await
                .is_ok()
        };
        for (lane, other, count) in [(Lane::Control, Lane::Bulk, 16), (Lane::Bulk, Lane::Control, 2)] {
            assert!(!let_go(lane).await);
            let mut standing: Vec<_> = (0..count).map(|_| Box::pin(budget.stall_timeout(lane))).collect();
            for stall_timeout in &mut standing {
                assert!(timeout(BUSY_TIME * 2, stall_timeout).await.is_err());
            }
            assert!(let_go(lane).await);
            assert!(!let_go(other).await);
            standing.pop();
            assert!(!let_go(lane).await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn requests_of_many_words_wait_for_each_other_and_those_of_few_for_nobody() {
        let budget = Budget::default();
        let held = budget.values(usize::MAX).await;
        assert!(held.is_some());
        assert!(
            timeout(Duration::from_secs(1), budget.values(VALUES_FLOOR + 1))
                .await
                .is_err()
        );
        assert!(budget.values(VALUES_FLOOR).await.is_none());
        drop(held);
        assert!(budget.values(VALUES_FLOOR + 1).await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn long_requests_wait_for_each_other_and_short_ones_for_nobody() {
        let budget = Budget::default();
        let mut held = Vec::new();
        for _ in 0..4 {
            held.push(budget.request(1 << 20).await);
        }
        assert!(timeout(Duration::from_secs(1), budget.request(1 << 20)).await.is_err());
        assert!(budget.request(REQUEST_FLOOR).await.is_none());
        assert!(budget.inline_input(1 << 20).is_err() && budget.inline_input(REQUEST_FLOOR).is_ok());
        held.pop();
        assert!(budget.request(1 << 20).await.is_some());
    }
}
