//! A client's writer of one exec's stdin. The newest writer wins: it evicts the one before. `registry` makes it for clients,
//! `supervisor` for input that came inside the request.

use std::sync::Arc;

use tokio::sync::watch;

use super::state::Exec;
use super::{Error, ExecId, Progress};

/// Writer of one exec's stdin.
#[derive(Debug)]
pub struct StdinWriter {
    id: ExecId,
    exec: Arc<Exec>,
    number: u64,
    /// Number of the current writer.
    current: watch::Receiver<u64>,
}

impl StdinWriter {
    /// Takes over stdin from the writer before.
    pub(super) fn new(id: ExecId, exec: Arc<Exec>) -> Self {
        let (number, current) = exec.stdin.take_over();
        Self {
            id,
            exec,
            number,
            current,
        }
    }

    /// Returns the offset to begin at.
    pub async fn progress(&mut self) -> Result<Progress, Error> {
        self.write(None, &[], false).await
    }

    /// Writes the part of `data` that is new, then the end if `eof`. Waits while the command does not read. `Err` if bytes before
    /// `offset` are missing, or a newer writer has taken over.
    pub async fn write(&mut self, offset: Option<u64>, data: &[u8], eof: bool) -> Result<Progress, Error> {
        let exec = self.exec.clone();
        let number = self.number;
        // There is nothing to write to before the spawn.
        exec.pid().await;
        tokio::select! {
            biased;
            () = wait_for_eviction(&mut self.current, number) => exec.stdin.eviction(self.id).await,
            progress = exec.stdin.write(self.id, offset, data, eof) => progress,
        }
    }
}

/// Returns when another writer is current. It does not return the watch's value, which would hold the watch's lock.
async fn wait_for_eviction(current: &mut watch::Receiver<u64>, number: u64) {
    // An error means that the exec is gone, and its writers with it.
    let _ = current.wait_for(|current| *current != number).await;
}
