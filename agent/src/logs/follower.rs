//! One follower of one path. It checks at the file on a thread that may block, says what it found, and then waits for
//! inotify without a thread. A watch is always made first and the look taken after it, so that nothing falls between.
//!
//! What it sees is what is there when it checks: a file that was truncated and is longer again by then goes on as if it had
//! only grown. A file is watched itself, not the way to it: that a directory above it was renamed is noticed as soon as
//! something happens to the file.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::timeout;

use super::inotify::{Watch, Watches};
use super::open_log::{OpenLog, ReadOutcome};
use super::{Error, Event, Logs, Position, directories, on_thread};

/// Between two checks at a file for which inotify cannot be had.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct Follower {
    watches: Arc<Watches>,
    checks: Arc<Semaphore>,
    gone: watch::Sender<u64>,
    path: PathBuf,
    max: usize,
    /// Where to go on, until the first log begins.
    from: Option<Position>,
    wake: Arc<Notify>,
    log: Option<OpenLog>,
    /// While there is no file.
    waiting: Vec<Watch>,
    absence_reported: bool,
}

/// The outcome of a look.
enum CheckOutcome {
    Event(Event),
    /// Nothing new; whoever waits is woken.
    Watched,
    /// Nothing new, and nobody will say when there is.
    Unwatched,
}

impl Follower {
    pub(super) fn new(logs: &Logs, path: PathBuf, from: Option<Position>, max: usize) -> Self {
        Self {
            watches: logs.watches.clone(),
            checks: logs.checks.clone(),
            gone: logs.gone.clone(),
            path,
            max,
            from,
            wake: Arc::default(),
            log: None,
            waiting: Vec::new(),
            absence_reported: false,
        }
    }

    /// The next event, and the follower for the one after it. Whoever drops the future has dropped the follower.
    pub async fn next(mut self) -> Result<(Self, Event), Error> {
        loop {
            let checks = self.checks.clone();
            let (follower, found) = on_thread(&checks, self, Self::check).await?;
            self = follower;
            match found.map_err(Error::system("read it", &self.path))? {
                CheckOutcome::Event(event) => return Ok((self, event)),
                CheckOutcome::Watched => self.wake.notified().await,
                CheckOutcome::Unwatched => {
                    // Woken or not, it checks again.
                    let _ = timeout(POLL_INTERVAL, self.wake.notified()).await;
                }
            }
        }
    }

    fn check(&mut self) -> io::Result<CheckOutcome> {
        if let Some(log) = &mut self.log {
            if log.watch.is_none() {
                log.watch = self.watches.file(&log.file, &self.wake).ok();
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
            // It has gone. What was written between the last read and that moment is still in it.
            if let Some(event) = read(log, self.max)? {
                return Ok(CheckOutcome::Event(event));
            }
            self.log = None;
        }
        if let Some(begins) = self.begin()? {
            return Ok(CheckOutcome::Event(begins));
        }
        if !self.absence_reported {
            self.absence_reported = true;
            return Ok(CheckOutcome::Event(Event::Absent));
        }
        let watched = directories::watch(&self.watches, &self.path, &self.wake);
        let outcome = if watched.is_some() {
            CheckOutcome::Watched
        } else {
            CheckOutcome::Unwatched
        };
        // Those of before go last: a directory that is watched in both stays so.
        self.waiting = watched.unwrap_or_default();
        Ok(self.begin()?.map_or(outcome, CheckOutcome::Event))
    }

    /// Opens the file, if there is one by now.
    fn begin(&mut self) -> io::Result<Option<Event>> {
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
        self.gone.send_modify(|gone| *gone += 1);
    }
}

fn read(log: &mut OpenLog, max: usize) -> io::Result<Option<Event>> {
    Ok(match log.read(max)? {
        ReadOutcome::Data(data) => Some(Event::Data(data)),
        ReadOutcome::Truncated => Some(Event::Begins(log.position()?)),
        ReadOutcome::End => None,
    })
}
