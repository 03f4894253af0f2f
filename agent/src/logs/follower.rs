//! One follower of one path. It checks the file on a thread that may block, reports what it found, and then waits for inotify without
//! a thread. It always adds a watch before it checks, so that no change falls between. `rpc::logs` drives it.
//!
//! It sees the state at the time of a check: a file that was truncated and is longer again by then seems only to have grown. The file is
//! watched, not its path: the rename of a directory above it is noticed at the next event of the file.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

use super::inotify::Watch;
use super::open_log::{OpenLog, ReadOutcome};
use super::shared::Shared;
use super::{Error, Event, Position, directories};
use crate::files::SystemError;

/// Time between two checks of a file that inotify cannot watch.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct Follower {
    shared: Shared,
    path: PathBuf,
    /// Limit of a chunk, in bytes.
    max: usize,
    /// Position to continue at; taken by the first file that is opened.
    from: Option<Position>,
    /// Notified by every watch of this follower.
    wake: Arc<Notify>,
    /// The file that is being read; `None` while the path names no regular file.
    log: Option<OpenLog>,
    /// Watches on the directories of the path while `log` is `None`.
    waiting: Vec<Watch>,
    absence_reported: bool,
}

enum CheckOutcome {
    Event(Event),
    /// Nothing new; inotify wakes the follower.
    Watched,
    /// Nothing new, and inotify cannot watch: the follower polls.
    Unwatched,
}

impl Follower {
    pub(super) fn new(shared: Shared, path: PathBuf, from: Option<Position>, max: usize) -> Self {
        Self {
            shared,
            path,
            max,
            from,
            wake: Arc::default(),
            log: None,
            waiting: Vec::new(),
            absence_reported: false,
        }
    }

    /// Waits for the next event; returns it with the follower, which continues after it. Dropping the future drops the follower.
    pub async fn next(mut self) -> Result<(Self, Event), Error> {
        loop {
            let shared = self.shared.clone();
            let (follower, outcome) = shared.on_thread(self, Self::check).await?;
            self = follower;
            match outcome.map_err(SystemError::during("read it", &self.path))? {
                CheckOutcome::Event(event) => return Ok((self, event)),
                CheckOutcome::Watched => self.wake.notified().await,
                CheckOutcome::Unwatched => {
                    // The next check follows in either case.
                    let _ = timeout(POLL_INTERVAL, self.wake.notified()).await;
                }
            }
        }
    }

    /// Looks for the next event. Blocks.
    fn check(&mut self) -> io::Result<CheckOutcome> {
        if let Some(log) = &mut self.log {
            if log.watch.is_none() {
                log.watch = self.shared.watches.file(&log.file, &self.wake).ok();
            }
            if let Some(event) = read(log, self.max)? {
                return Ok(CheckOutcome::Event(event));
            }
            if log.is_at(&self.path)? {
                return Ok(match log.watch {
                    Some(_) => CheckOutcome::Watched,
                    None => CheckOutcome::Unwatched,
                });
            }
            // The path names another file or none. The old file still has what was written after the last read.
            if let Some(event) = read(log, self.max)? {
                return Ok(CheckOutcome::Event(event));
            }
            self.log = None;
        }
        if let Some(begins) = self.open()? {
            return Ok(CheckOutcome::Event(begins));
        }
        if !self.absence_reported {
            self.absence_reported = true;
            return Ok(CheckOutcome::Event(Event::Absent));
        }
        let watched = directories::watch(&self.shared.watches, &self.path, &self.wake);
        let outcome = if watched.is_some() {
            CheckOutcome::Watched
        } else {
            CheckOutcome::Unwatched
        };
        // Drops the old watches only after the new ones exist, so that a directory in both stays watched.
        self.waiting = watched.unwrap_or_default();
        Ok(self.open()?.map_or(outcome, CheckOutcome::Event))
    }

    /// Opens the file; `None` if there is still none.
    fn open(&mut self) -> io::Result<Option<Event>> {
        let Some(mut log) = OpenLog::open(&self.path)? else {
            return Ok(None);
        };
        if let Some(from) = self.from.take() {
            log.resume(&from)?;
        }
        let begins = Event::Begins(log.position()?);
        self.log = Some(log);
        self.waiting = Vec::new();
        self.absence_reported = false;
        Ok(Some(begins))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.shared.ended_followers.send_modify(|count| *count += 1);
    }
}

/// Returns the next event of an open file; `None` at its end.
fn read(log: &mut OpenLog, max: usize) -> io::Result<Option<Event>> {
    Ok(match log.read(max)? {
        ReadOutcome::Data(data) => Some(Event::Data(data)),
        ReadOutcome::Truncated => Some(Event::Begins(log.position()?)),
        ReadOutcome::End => None,
    })
}
