//! Reports which names that match a pattern a directory has, and which appear and disappear: a client that waits for many logs needs
//! followers only for those that exist. It lists the directory whenever such a name changes and reports the difference. `rpc::logs`
//! drives it.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use podbridge_proto::limits::MAX_LOGS;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::inotify::{Pattern, Watch};
use super::shared::Shared;
use super::{Error, directories};
use crate::files::SystemError;

/// Time between two checks of a directory that inotify cannot watch.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Differences to the previous list.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct NameChanges {
    pub appeared: Vec<Bytes>,
    pub gone: Vec<Bytes>,
}

#[derive(Debug)]
pub struct NameWatcher {
    shared: Shared,
    directory: PathBuf,
    pattern: Pattern,
    /// Notified by every watch of this watcher.
    wake: Arc<Notify>,
    watched: Vec<Watch>,
    /// Names of the last list; `None` before the first one.
    known: Option<BTreeSet<Bytes>>,
}

impl NameWatcher {
    pub(super) fn new(shared: Shared, directory: PathBuf, pattern: Pattern) -> Self {
        Self {
            shared,
            directory,
            pattern,
            wake: Arc::default(),
            watched: Vec::new(),
            known: None,
        }
    }

    /// Waits for changes; returns them with the watcher. The first call returns all names at once, even if there are none.
    pub async fn next(mut self) -> Result<(Self, NameChanges), Error> {
        loop {
            let shared = self.shared.clone();
            let (watcher, changes) = shared.on_thread(self, Self::check).await?;
            self = watcher;
            if let Some(changes) = changes? {
                return Ok((self, changes));
            }
            if self.watched.is_empty() {
                let _ = timeout(POLL_INTERVAL, self.wake.notified()).await;
            } else {
                self.wake.notified().await;
            }
        }
    }

    /// Watches, lists and compares. `None`: no change. Blocks.
    fn check(&mut self) -> Result<Option<NameChanges>, Error> {
        let failed = |error| SystemError::during("list it", &self.directory)(error);
        // Drops the old watches only after the new ones exist, so that a directory in both stays watched.
        let watched = self.watch().map_err(failed)?;
        let present = self.list().map_err(failed)?;
        self.watched = watched;
        if present.len() > MAX_LOGS {
            return Err(Error::TooMany {
                directory: self.directory.clone(),
                limit: MAX_LOGS,
            });
        }
        let is_first = self.known.is_none();
        let known = self.known.replace(present.clone()).unwrap_or_default();
        let changes = NameChanges {
            appeared: present.difference(&known).cloned().collect(),
            gone: known.difference(&present).cloned().collect(),
        };
        Ok((is_first || changes != NameChanges::default()).then_some(changes))
    }

    /// Watches the directory, or the path to it. Empty: not every change that matters can be watched.
    fn watch(&self) -> io::Result<Vec<Watch>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match open(&self.directory, flags, Mode::empty()) {
            Ok(directory) => {
                let watch = self.shared.watches.names(directory, &self.pattern, &self.wake);
                Ok(watch.into_iter().collect())
            }
            Err(Errno::NOENT | Errno::NOTDIR) => {
                let watched = directories::watch(&self.shared.watches, &self.directory, &self.wake);
                Ok(watched.unwrap_or_default())
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Returns the names that match, up to one more than the limit.
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
                if names.len() > MAX_LOGS {
                    break;
                }
            }
        }
        Ok(names)
    }
}
