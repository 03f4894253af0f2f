//! One follower of one path. It looks at the file on a thread that may block, says what it found, and then waits for
//! inotify without a thread. A watch is always made first and the look taken after it, so that nothing falls between.
//!
//! What it sees is what is there when it looks: a file that was truncated and is longer again by then goes on as if it had
//! only grown. A file is watched itself, not the way to it: that a directory above it was renamed is noticed as soon as
//! something happens to the file.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::timeout;

use super::inotify::{Watch, Watches};
use super::open_log::{Life, Read};
use super::{Error, Event, Logs, Position, directories, on_thread};

/// Between two looks at a file for which inotify cannot be had.
const POLL: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct Follower {
    watches: Arc<Watches>,
    looks: Arc<Semaphore>,
    gone: watch::Sender<u64>,
    path: PathBuf,
    max: usize,
    /// Where to go on, until the first life begins.
    from: Option<Position>,
    wake: Arc<Notify>,
    life: Option<Life>,
    /// While there is no file.
    waiting: Vec<Watch>,
    told_absent: bool,
}

/// The outcome of a look.
enum Found {
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
            looks: logs.looks.clone(),
            gone: logs.gone.clone(),
            path,
            max,
            from,
            wake: Arc::default(),
            life: None,
            waiting: Vec::new(),
            told_absent: false,
        }
    }

    /// The next event, and the follower for the one after it. Whoever drops the future has dropped the follower.
    pub async fn next(mut self) -> Result<(Self, Event), Error> {
        loop {
            let looks = self.looks.clone();
            let (follower, found) = on_thread(&looks, self, Self::look).await?;
            self = follower;
            match found.map_err(Error::system("read it", &self.path))? {
                Found::Event(event) => return Ok((self, event)),
                Found::Watched => self.wake.notified().await,
                Found::Unwatched => {
                    // Woken or not, it looks again.
                    let _ = timeout(POLL, self.wake.notified()).await;
                }
            }
        }
    }

    fn look(&mut self) -> io::Result<Found> {
        if let Some(life) = &mut self.life {
            if life.watch.is_none() {
                life.watch = self.watches.file(&life.file, &self.wake).ok();
            }
            if let Some(event) = read(life, self.max)? {
                return Ok(Found::Event(event));
            }
            if life.is_at(&self.path)? {
                return Ok(match life.watch {
                    Some(_) => Found::Watched,
                    None => Found::Unwatched,
                });
            }
            // It has gone. What was written between the last read and that moment is still in it.
            if let Some(event) = read(life, self.max)? {
                return Ok(Found::Event(event));
            }
            self.life = None;
        }
        if let Some(begins) = self.begin()? {
            return Ok(Found::Event(begins));
        }
        if !self.told_absent {
            self.told_absent = true;
            return Ok(Found::Event(Event::Absent));
        }
        let watched = directories::watch(&self.watches, &self.path, &self.wake);
        let outcome = if watched.is_some() {
            Found::Watched
        } else {
            Found::Unwatched
        };
        // Those of before go last: a directory that is watched in both stays so.
        self.waiting = watched.unwrap_or_default();
        Ok(self.begin()?.map_or(outcome, Found::Event))
    }

    /// Opens the file, if there is one by now.
    fn begin(&mut self) -> io::Result<Option<Event>> {
        let Some(mut life) = Life::open(&self.path)? else {
            return Ok(None);
        };
        if let Some(from) = self.from.take() {
            life.resume(&from)?;
        }
        let begins = Event::Begins(life.position()?);
        self.life = Some(life);
        self.waiting = Vec::new();
        self.told_absent = false;
        Ok(Some(begins))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.gone.send_modify(|gone| *gone += 1);
    }
}

fn read(life: &mut Life, max: usize) -> io::Result<Option<Event>> {
    Ok(match life.read(max)? {
        Read::Data(data) => Some(Event::Data(data)),
        Read::Truncated => Some(Event::Begins(life.position()?)),
        Read::End => None,
    })
}
