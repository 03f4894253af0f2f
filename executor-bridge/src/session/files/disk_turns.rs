//! The threads on which transfers read and write local files. A thread is held for one read or one write of a few chunks and never waits
//! for an agent or a client. Transfers get only some of the threads: the input of a command does not wait behind them. The parts of
//! `files` call it.

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::error::Failure;
use crate::protocol::result::Outcome;

/// Threads that transfers may use at once, half of those that `daemon` allows.
static TURNS: Semaphore = Semaphore::const_new(4);

/// Runs one short step on a thread.
pub(super) async fn on_disk<T: Send + 'static>(
    step: impl FnOnce() -> Result<T, Outcome> + Send + 'static,
) -> Result<T, Outcome> {
    let turn = TURNS.acquire().await.expect("the semaphore is never closed");
    let stepped = spawn_blocking(move || {
        // Given back by the thread: a caller that is dropped does not stop the step.
        let _turn = turn;
        step()
    });
    stepped
        .await
        .unwrap_or_else(|_| Err(Outcome::Lost(Failure::bug("a step of a transfer failed"))))
}
