//! The asynchronous side of a `Put`: content goes through a bounded queue to a task, which writes it
//! on a thread that may block. No thread waits for a sender. This module knows
//! no connection. `receive` (for `Files.Write`), `rpc::files` (`Files.Put`) and `rpc::exec` (`Exec.PutAndExec`) feed it.

use bytes::Bytes;
use podbridge_proto::digest::{ContentDigest, ContentHasher};
use rustix::io::Errno;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_blocking;

use super::hole_digest::hash_zeros;
use super::{Error, Put, Target, run_blocking};

/// Capacity of the queue between the connection and the disk.
const MAX_QUEUED_PARTS: usize = 8;
/// Most parts that one step on a thread writes.
const STEP_PARTS: usize = 16;
/// Bytes between two reports of progress. A sender of a stream waits for a report after eight times as much.
const PROGRESS_STEP: u64 = 512 * 1024;

/// Length and digest of the whole content, as its sender computed them.
#[derive(Debug, Clone, Copy)]
pub struct Trailer {
    pub length: u64,
    pub digest: ContentDigest,
}

/// A part of a file's content, or its end.
#[derive(Debug)]
enum ContentPart {
    Data(Bytes),
    /// Number of zeros that take no space on the disk.
    Hole(u64),
    Trailer(Trailer),
}

/// Result of the writing task.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The content has its trailer's length and digest; the file does not have its name yet.
    Verified(Put),
    /// The queue ended without a trailer.
    HalfDone(Put),
}

/// Handle of one file that is being written. Dropping it stops the task after the queued parts and removes the temporary file.
#[derive(Debug)]
pub struct ContentWriter {
    parts: mpsc::Sender<ContentPart>,
    outcome: oneshot::Receiver<Result<Outcome, Error>>,
    /// Bytes that are written; changes once per `PROGRESS_STEP`.
    written: watch::Receiver<u64>,
}

impl ContentWriter {
    /// Starts a new file. `finish` returns the error if the file cannot be made.
    pub fn create(target: Target, hasher: ContentHasher) -> Self {
        Self::start(move || Put::create(target, hasher), 0)
    }

    /// Continues a half-done file at its length.
    pub(super) fn resume(put: Put) -> Self {
        let length = put.length();
        Self::start(move || Ok(put), length)
    }

    /// Starts the writing task; `length` is the number of bytes that the file has already.
    fn start(open: impl FnOnce() -> Result<Put, Error> + Send + 'static, length: u64) -> Self {
        let (parts, queue) = mpsc::channel(MAX_QUEUED_PARTS);
        let (reported, written) = watch::channel(length);
        let (sender, outcome) = oneshot::channel();
        tokio::spawn(async move {
            let result = write_all(open, queue, reported).await;
            if let Err(unwanted) = sender.send(result) {
                // Removing a large file takes a while.
                spawn_blocking(move || drop(unwanted));
            }
        });
        Self {
            parts,
            outcome,
            written,
        }
    }

    /// Queues data; waits for space in the queue. `false`: the task has failed, and `finish` returns its error.
    pub async fn data(&self, data: Bytes) -> bool {
        self.parts.send(ContentPart::Data(data)).await.is_ok()
    }

    /// Queues a hole, like `data`.
    pub async fn hole(&self, count: u64) -> bool {
        self.parts.send(ContentPart::Hole(count)).await.is_ok()
    }

    /// Returns the verified file, which does not have its name yet.
    pub async fn finish(self, trailer: Option<Trailer>) -> Result<Put, Error> {
        if let Some(trailer) = trailer {
            // A task that has failed takes no more parts; its error follows below.
            let _ = self.parts.send(ContentPart::Trailer(trailer)).await;
        }
        match self.stop().await? {
            Outcome::Verified(put) => Ok(put),
            // Dropping the `Put` removes its temporary file.
            Outcome::HalfDone(_) => Err(Error::NoTrailer),
        }
    }

    /// Ends the queue and waits for the task.
    pub(super) async fn stop(self) -> Result<Outcome, Error> {
        drop(self.parts);
        self.outcome.await.unwrap_or(Err(Error::Panicked))
    }

    /// Returns the number of bytes reported as written.
    pub(super) fn written(&mut self) -> u64 {
        *self.written.borrow_and_update()
    }

    /// Waits until `written` has changed. `false`: the task has ended.
    pub(super) async fn has_progressed(&mut self) -> bool {
        self.written.changed().await.is_ok()
    }
}

/// Opens the file and writes the queued parts. No thread waits for the queue.
async fn write_all(
    open: impl FnOnce() -> Result<Put, Error> + Send + 'static,
    mut queue: mpsc::Receiver<ContentPart>,
    mut reported: watch::Sender<u64>,
) -> Result<Outcome, Error> {
    let mut put = run_blocking(open).await?;
    while let Some(first) = queue.recv().await {
        let step = move || {
            let outcome = write_step(put, first, &mut queue, &reported)?;
            Ok((outcome, queue, reported))
        };
        match run_blocking(step).await? {
            (Outcome::HalfDone(written), rest, sender) => {
                (queue, reported) = (rest, sender);
                put = hash_zeros(written, |put| &mut put.digest, || !reported.is_closed()).await?;
            }
            (verified @ Outcome::Verified(_), ..) => return Ok(verified),
        }
    }
    Ok(Outcome::HalfDone(put))
}

/// Writes a part and those that have come meanwhile, up to `STEP_PARTS` or a hole, whose zeros are hashed after it. Blocks.
fn write_step(
    mut put: Put,
    first: ContentPart,
    queue: &mut mpsc::Receiver<ContentPart>,
    reported: &watch::Sender<u64>,
) -> Result<Outcome, Error> {
    let parts = std::iter::once(first).chain(std::iter::from_fn(|| queue.try_recv().ok()));
    for part in parts.take(STEP_PARTS) {
        let is_hole = matches!(part, ContentPart::Hole(_));
        match part {
            ContentPart::Data(data) => put.write(&data)?,
            ContentPart::Hole(count) => put.hole(count)?,
            ContentPart::Trailer(Trailer { length, digest }) => {
                put.verify(length, digest)?;
                return Ok(Outcome::Verified(put));
            }
        }
        reported.send_if_modified(|reported| {
            let is_due = put.length() - *reported >= PROGRESS_STEP;
            if is_due {
                *reported = put.length();
            }
            is_due
        });
        if is_hole {
            break;
        }
    }
    Ok(Outcome::HalfDone(put))
}

/// Gives verified files their names, in order; stops at the first error. Returns the reason for each file that was written in place.
pub async fn commit_all(puts: Vec<Put>) -> Result<Vec<Option<Errno>>, Error> {
    run_blocking(move || puts.into_iter().map(Put::commit).collect()).await
}
