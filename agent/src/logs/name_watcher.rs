//! Says which names of a certain form a directory has, and which come and go: whoever waits for many logs needs a follower
//! only for those that are there. Lists the directory whenever such a name changes, and says what differs.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use tokio::sync::{Notify, Semaphore};
use tokio::time::timeout;

use super::inotify::{Pattern, Watch, Watches};
use super::{Error, Logs, directories, on_thread};

/// Between two checks at a directory for which inotify cannot be had.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// What is new since the last one.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct NameChanges {
    pub appeared: Vec<Bytes>,
    pub gone: Vec<Bytes>,
}

#[derive(Debug)]
pub struct NameWatcher {
    watches: Arc<Watches>,
    checks: Arc<Semaphore>,
    directory: PathBuf,
    pattern: Pattern,
    wake: Arc<Notify>,
    watched: Vec<Watch>,
    /// `None` before the first look.
    known: Option<BTreeSet<Bytes>>,
}

impl NameWatcher {
    pub(super) fn new(logs: &Logs, directory: PathBuf, pattern: Pattern) -> Self {
        Self {
            watches: logs.watches.clone(),
            checks: logs.checks.clone(),
            directory,
            pattern,
            wake: Arc::default(),
            watched: Vec::new(),
            known: None,
        }
    }

    /// What is new, and the watcher for what will be; the first time all there are, which may be none.
    pub async fn next(mut self) -> Result<(Self, NameChanges), Error> {
        loop {
            let checks = self.checks.clone();
            let (watcher, found) = on_thread(&checks, self, Self::check).await?;
            self = watcher;
            if let Some(names) = found.map_err(Error::system("list it", &self.directory))? {
                return Ok((self, names));
            }
            if self.watched.is_empty() {
                let _ = timeout(POLL_INTERVAL, self.wake.notified()).await;
            } else {
                self.wake.notified().await;
            }
        }
    }

    fn check(&mut self) -> io::Result<Option<NameChanges>> {
        // Those of before go last: what is watched in both stays so.
        self.watched = self.watch()?;
        let present = self.list()?;
        let first = self.known.is_none();
        let known = self.known.replace(present.clone()).unwrap_or_default();
        let names = NameChanges {
            appeared: present.difference(&known).cloned().collect(),
            gone: known.difference(&present).cloned().collect(),
        };
        Ok((first || names != NameChanges::default()).then_some(names))
    }

    /// Empty if not everything that matters can be watched.
    fn watch(&self) -> io::Result<Vec<Watch>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match open(&self.directory, flags, Mode::empty()) {
            Ok(directory) => {
                let watch = self.watches.names(directory, &self.pattern, &self.wake);
                Ok(watch.into_iter().collect())
            }
            Err(Errno::NOENT | Errno::NOTDIR) => {
                let watched = directories::watch(&self.watches, &self.directory, &self.wake);
                Ok(watched.unwrap_or_default())
            }
            Err(errno) => Err(errno.into()),
        }
    }

    fn list(&self) -> io::Result<BTreeSet<Bytes>> {
        let entries = match std::fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(BTreeSet::new());
            }
            Err(error) => return Err(error),
        };
        let mut names = BTreeSet::new();
        for entry in entries {
            let name = entry?.file_name();
            if self.pattern.matches(name.as_bytes()) {
                names.insert(Bytes::copy_from_slice(name.as_bytes()));
            }
        }
        Ok(names)
    }
}
