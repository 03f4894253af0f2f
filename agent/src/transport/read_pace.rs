//! When a connection may read on. HTTP/2 takes whatever has come: a client that begins thousands of calls would keep other tasks waiting,
//! and one that reads no answer would fill the memory with answers. `connection` asks before each read; `backlog` counts the calls.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use tokio::task::JoinHandle;

/// Bytes of one connection after whose reading other tasks have their turn: they may be two hundred calls.
const MAX_READ_AT_ONCE: usize = 32 << 10;
/// Calls that a client may begin while it takes nothing of what is written to it. Bridges read at any time.
const MAX_UNREAD_CALLS: usize = 256;

/// Number of calls that a connection has begun; clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct CallCount(Arc<AtomicUsize>);

impl CallCount {
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn value(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Pace of one connection. Reads and writes are made by the same task.
#[derive(Debug, Default)]
pub(super) struct ReadPace {
    calls: CallCount,
    /// Bytes that were read one after the other, without a turn for other tasks.
    read_at_once: usize,
    /// Ends when other tasks have had their turn. A waker that is woken at once would not do: the server asks several times for what has
    /// come before its task gives way.
    turn: Option<JoinHandle<()>>,
    /// Number of calls when the client stopped to take what is written; `None`: it takes it.
    blocked_at: Option<usize>,
    /// A read waits until the client takes something.
    is_held: bool,
}

impl ReadPace {
    pub(super) fn new(calls: CallCount) -> Self {
        Self {
            calls,
            ..Self::default()
        }
    }

    /// Is ready when the connection may read.
    pub(super) fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let begun = |since: usize| self.calls.value().wrapping_sub(since);
        if self.blocked_at.is_some_and(|since| begun(since) >= MAX_UNREAD_CALLS) {
            self.is_held = true;
            return Poll::Pending;
        }
        if self.read_at_once >= MAX_READ_AT_ONCE {
            self.read_at_once = 0;
            self.turn = Some(tokio::spawn(async {}));
        }
        if let Some(turn) = &mut self.turn {
            // It does nothing that could fail.
            let _ = ready!(Pin::new(turn).poll(cx));
            self.turn = None;
        }
        Poll::Ready(())
    }

    /// Notes how many bytes a read has brought; `None`: it waits.
    pub(super) fn note_read(&mut self, count: Option<usize>) {
        self.read_at_once = count.map_or(0, |count| self.read_at_once + count);
    }

    /// Notes whether the client took something of what is written; returns the poll.
    pub(super) fn note_write<T>(&mut self, written: Poll<T>, cx: &Context<'_>) -> Poll<T> {
        match &written {
            Poll::Pending => {
                self.blocked_at.get_or_insert_with(|| self.calls.value());
            }
            Poll::Ready(_) => {
                self.blocked_at = None;
                if std::mem::take(&mut self.is_held) {
                    cx.waker().wake_by_ref();
                }
            }
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// A pace, its calls, and whether its task was woken since the last time.
    fn scene() -> (ReadPace, CallCount, Arc<Woken>) {
        let calls = CallCount::default();
        (ReadPace::new(calls.clone()), calls, Arc::default())
    }

    #[tokio::test]
    async fn other_tasks_have_their_turn_between_many_bytes() {
        let (mut pace, _, woken) = scene();
        let waker = woken.clone().into();
        let mut cx = Context::from_waker(&waker);
        for _ in 0..3 {
            assert!(pace.poll_turn(&mut cx).is_ready());
            pace.note_read(Some(MAX_READ_AT_ONCE));
            for _ in 0..3 {
                assert!(pace.poll_turn(&mut cx).is_pending());
            }
            while !woken.0.swap(false, Ordering::Relaxed) {
                tokio::task::yield_now().await;
            }
        }
        assert!(pace.poll_turn(&mut cx).is_ready());
        pace.note_read(Some(MAX_READ_AT_ONCE - 1));
        // Nothing is left, so the task waits for the connection.
        pace.note_read(None);
        pace.note_read(Some(1));
        assert!(pace.poll_turn(&mut cx).is_ready());
    }

    #[test]
    fn a_client_that_takes_nothing_begins_only_so_many_calls() {
        let (mut pace, calls, woken) = scene();
        let waker = woken.clone().into();
        let mut cx = Context::from_waker(&waker);
        let begin = |count| (0..count).for_each(|_| calls.add());
        begin(2 * MAX_UNREAD_CALLS);
        assert!(pace.poll_turn(&mut cx).is_ready(), "it reads");
        for _ in 0..2 {
            assert!(pace.note_write(Poll::<()>::Pending, &cx).is_pending());
            begin(MAX_UNREAD_CALLS - 1);
            assert!(pace.poll_turn(&mut cx).is_ready());
            begin(1);
            assert!(pace.poll_turn(&mut cx).is_pending());
            assert!(!woken.0.load(Ordering::Relaxed));
            assert!(pace.note_write(Poll::Ready(()), &cx).is_ready());
            assert!(woken.0.swap(false, Ordering::Relaxed), "it takes something again");
            assert!(pace.poll_turn(&mut cx).is_ready());
        }
    }
}
