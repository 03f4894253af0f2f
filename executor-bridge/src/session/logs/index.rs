//! The index of logs: which logs exist in the pod's containers and at other bridges, who waits for one, and which exec
//! writes one. No I/O: `watch` and `console` fill it, the execs report their start and end, and `console` and
//! `requests` read it.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use podbridge_proto::limits::MAX_LOGS;
use tokio::sync::Notify;
use tokio::sync::watch::{Receiver, Sender};

use crate::session::logs::log_id::LogId;
use crate::session::logs::source::LogSource;
use crate::session::logs::writers::{self, LogWriter, LogWriters};

/// Longest list of logs that other bridges get, bytes of ids.
const MAX_LISTED: usize = 128 << 10;
/// Logs that clients have read and that may be deleted, at most; the oldest are forgotten.
const MAX_READ: usize = 4096;

/// Index of logs, shared by all tasks of a bridge.
#[derive(Debug, Default)]
pub(crate) struct LogIndex {
    state: Mutex<State>,
    /// Number of execs that have ended.
    ended: Sender<u64>,
    /// Number of changes to the logs of this pod.
    changes: Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// Logs of every source. A source that lists its logs anew costs only what it has itself.
    present: BTreeMap<LogSource, HashSet<LogId>>,
    /// Notified at every change to one log.
    interested: HashMap<LogId, Arc<Notify>>,
    writers: LogWriters,
    /// Sources that may have logs that are not in `present`: their names have not come yet, or are too many.
    incomplete: HashSet<LogSource>,
    /// Logs that clients have asked for, oldest first.
    read: VecDeque<LogId>,
}

impl State {
    fn notify(&self, id: &LogId) {
        if let Some(interested) = self.interested.get(id) {
            interested.notify_waiters();
        }
    }

    fn add(&mut self, source: &LogSource, id: LogId) {
        self.notify(&id);
        let known: usize = self.present.values().map(HashSet::len).sum();
        // A name that somebody waits for is always kept, from one source: clients are few.
        let is_wanted = self.interested.contains_key(&id) && self.source(&id).is_none();
        if known >= MAX_LOGS && !is_wanted && !self.present.get(source).is_some_and(|ids| ids.contains(&id)) {
            self.incomplete.insert(source.clone());
            return;
        }
        self.present.entry(source.clone()).or_default().insert(id);
    }

    fn remove(&mut self, source: &LogSource, id: &LogId) {
        if let Some(ids) = self.present.get_mut(source) {
            ids.remove(id);
            if ids.is_empty() {
                self.present.remove(source);
            }
        }
    }

    fn source(&self, id: &LogId) -> Option<&LogSource> {
        let mut sources = self.present.iter();
        sources.find(|(_, ids)| ids.contains(id)).map(|(source, _)| source)
    }
}

impl LogIndex {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Updates the logs of one source. `all`: the source has no other logs than `appeared`.
    pub(crate) fn update(&self, source: &LogSource, all: bool, appeared: Vec<LogId>, gone: &[LogId]) {
        let mut state = self.lock();
        if all {
            state.present.remove(source);
            state.incomplete.remove(source);
        }
        for id in gone {
            state.remove(source, id);
        }
        for id in appeared {
            state.add(source, id);
        }
        drop(state);
        if let LogSource::Container(_) = source {
            self.changes.send_modify(|count| *count += 1);
        }
    }

    /// Notes that a source may have logs whose names are not known.
    pub(crate) fn note_incomplete(&self, source: &LogSource) {
        self.lock().incomplete.insert(source.clone());
    }

    /// Returns the containers that may have logs whose names are not known.
    pub(crate) fn incomplete_containers(&self) -> Vec<Option<String>> {
        let state = self.lock();
        let containers = state.incomplete.iter().filter_map(|source| match source {
            LogSource::Container(container) => Some(container.clone()),
            LogSource::Sibling(_) => None,
        });
        containers.collect()
    }

    /// Notes that a client reads a log.
    pub(crate) fn note_read(&self, id: &LogId) {
        let mut state = self.lock();
        if state.read.back() == Some(id) {
            return;
        }
        if state.read.len() == MAX_READ {
            state.read.pop_front();
        }
        state.read.push_back(id.clone());
    }

    /// Returns whether a container or another bridge has a log of this id, or a command writes it.
    pub(crate) fn knows(&self, id: &LogId) -> bool {
        let state = self.lock();
        state.source(id).is_some() || state.writers.get(id).is_some()
    }

    /// Returns whether a log of this id may exist: it is known, a client has read it, a command writes it, or not all names are known.
    pub(crate) fn may_exist(&self, id: &LogId) -> bool {
        let state = self.lock();
        state.source(id).is_some()
            || state.writers.get(id).is_some()
            || state.read.contains(id)
            || !state.incomplete.is_empty()
    }

    /// Removes a log of one source, whatever the source reported before.
    pub(crate) fn forget(&self, source: &LogSource, id: &LogId) {
        self.lock().remove(source, id);
    }

    /// Returns a source of the log; `None` if the log does not exist.
    pub(crate) fn source(&self, id: &LogId) -> Option<LogSource> {
        self.lock().source(id).cloned()
    }

    /// Returns the container of this pod that has the log; the inner `None` is the default container.
    pub(crate) fn own_container(&self, id: &LogId) -> Option<Option<String>> {
        match self.source(id)? {
            LogSource::Container(container) => Some(container),
            LogSource::Sibling(_) => None,
        }
    }

    /// Waits until a container of this pod has the log, and returns the container.
    pub(crate) async fn wait_for_own(self: &Arc<Self>, id: &LogId) -> Option<String> {
        let interest = self.interest(id);
        loop {
            let changed = interest.changed();
            if let Some(container) = self.own_container(id) {
                return container;
            }
            changed.await;
        }
    }

    /// Returns a value that changes when the logs of this pod change.
    pub(crate) fn changes(&self) -> Receiver<u64> {
        self.changes.subscribe()
    }

    /// Returns the ids of the logs of this pod; of very many logs, those that commands of this bridge write, and as many others as a list
    /// may have.
    pub(crate) fn own_ids(&self) -> Vec<LogId> {
        let state = self.lock();
        let own = state
            .present
            .iter()
            .filter(|(source, _)| matches!(source, LogSource::Container(_)));
        let own: HashSet<_> = own.flat_map(|(_, ids)| ids).collect();
        let (mut listed, others): (Vec<_>, Vec<_>) = own.into_iter().partition(|id| state.writers.get(id).is_some());
        listed.extend(others);
        let mut length = 0;
        let fits = listed.into_iter().take_while(|id| {
            length += id.as_str().len() + 3;
            length <= MAX_LISTED
        });
        fits.cloned().collect()
    }

    /// Registers interest in one log.
    pub(crate) fn interest(self: &Arc<Self>, id: &LogId) -> Interest {
        let changed = self.lock().interested.entry(id.clone()).or_default().clone();
        Interest {
            logs: self.clone(),
            id: id.clone(),
            changed,
        }
    }

    /// Returns a value that changes when an exec ends.
    pub(crate) fn exec_ends(&self) -> Receiver<u64> {
        self.ended.subscribe()
    }

    /// Notes the log ids in an Ansible module that was put into a file.
    pub(crate) fn note_module(&self, path: &[u8], content: &[u8]) {
        let ids = writers::find_ids(content);
        if !ids.is_empty() {
            self.lock().writers.note_module(path, ids);
        }
    }

    /// Notes that an exec starts with `payload` as its standard input. The exec has ended when the guard is dropped.
    pub(crate) fn start_exec(self: &Arc<Self>, container: Option<&str>, argv: &[Bytes], payload: &[u8]) -> WriterGuard {
        let source = LogSource::Container(container.map(str::to_owned));
        let mut ids = writers::find_ids(payload);
        let mut state = self.lock();
        if ids.is_empty() {
            ids = state.writers.ids_of_command(argv);
        }
        state.writers.start(&source, &ids);
        drop(state);
        WriterGuard {
            logs: self.clone(),
            ids,
        }
    }

    /// Returns the exec that writes this log; `None` if none is known.
    pub(crate) fn writer(&self, id: &LogId) -> Option<LogWriter> {
        self.lock().writers.get(id)
    }
}

/// Guard of a running exec that may write logs.
#[derive(Debug)]
pub(crate) struct WriterGuard {
    logs: Arc<LogIndex>,
    ids: Vec<LogId>,
}

impl Drop for WriterGuard {
    fn drop(&mut self) {
        let mut state = self.logs.lock();
        state.writers.end(&self.ids);
        for id in &self.ids {
            state.notify(id);
        }
        drop(state);
        self.logs.ended.send_modify(|count| *count += 1);
    }
}

/// Guard of a task's interest in one log.
#[derive(Debug)]
pub(crate) struct Interest {
    logs: Arc<LogIndex>,
    id: LogId,
    changed: Arc<Notify>,
}

impl Interest {
    /// Returns a future of the first change after this call. Call it before you read the index.
    pub(crate) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }
}

impl Drop for Interest {
    fn drop(&mut self) {
        let mut state = self.logs.lock();
        // One reference is this guard's, the other is the map's.
        if Arc::strong_count(&self.changed) == 2 {
            state.interested.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> LogId {
        LogId::new(text).unwrap()
    }

    #[test]
    fn own_containers_come_first_and_a_source_can_list_its_logs_anew() {
        let logs = LogIndex::default();
        let (own, other) = (LogSource::Container(None), LogSource::Sibling("x".into()));
        logs.update(&other, true, vec![id("a"), id("b")], &[]);
        logs.update(&own, true, vec![id("a")], &[]);
        assert_eq!(logs.source(&id("a")), Some(own.clone()));
        assert_eq!(logs.source(&id("b")), Some(other.clone()));
        assert_eq!(logs.own_ids(), [id("a")]);
        logs.update(&own, true, vec![], &[]);
        assert_eq!(logs.source(&id("a")), Some(other.clone()));
        logs.update(&other, false, vec![], &[id("a")]);
        assert_eq!(logs.source(&id("a")), None);
    }

    #[test]
    fn a_pod_can_make_the_index_only_so_large() {
        let logs = Arc::new(LogIndex::default());
        let (source, late) = (LogSource::Container(None), id("late"));
        let _interest = logs.interest(&late);
        let names = |numbers: std::ops::Range<usize>| numbers.map(|n| id(&format!("{n:0>200}"))).collect::<Vec<_>>();
        for n in 0..20 {
            logs.update(&source, n == 0, names(n * 10_000..(n + 1) * 10_000), &[]);
        }
        // The same names in other containers are more to remember.
        let other = LogSource::Container(Some("other".into()));
        logs.update(&other, true, names(0..MAX_LOGS), &[]);
        let pairs = |logs: &LogIndex| logs.lock().present.values().map(HashSet::len).sum::<usize>();
        assert_eq!(pairs(&logs), MAX_LOGS);
        assert_eq!(logs.incomplete_containers().len(), 2);
        logs.update(&other, true, vec![], &[]);
        assert_eq!(logs.incomplete_containers(), [None]);
        // What somebody waits for is still found, and the list for other bridges is short.
        logs.update(&source, false, vec![late.clone()], &[]);
        assert_eq!(logs.source(&late), Some(source.clone()));
        logs.update(&other, true, vec![late.clone()], &[]);
        assert_eq!(pairs(&logs), MAX_LOGS + 1);
        logs.update(&other, true, vec![], &[]);
        assert!(logs.own_ids().len() < 1000);
        logs.update(&source, true, vec![], &[]);
        assert!(logs.incomplete_containers().is_empty() && !logs.may_exist(&late));
        logs.note_read(&late);
        assert!(logs.may_exist(&late));
        for name in names(0..2 * MAX_READ) {
            logs.note_read(&name);
        }
        assert!(!logs.may_exist(&late));
    }

    #[tokio::test]
    async fn interested_tasks_are_notified_and_removed() {
        let logs = Arc::new(LogIndex::default());
        let interest = logs.interest(&id("a"));
        let second = logs.interest(&id("a"));
        {
            let changed = interest.changed();
            logs.update(&LogSource::Container(None), false, vec![id("a")], &[]);
            changed.await;
        }
        drop(interest);
        {
            let changed = second.changed();
            let running = logs.start_exec(None, &[], br#"{"zuul_log_id": "a"}"#);
            assert!(!logs.writer(&id("a")).unwrap().ended);
            drop(running);
            changed.await;
        }
        assert!(logs.writer(&id("a")).unwrap().ended);
        assert_eq!(*logs.exec_ends().borrow(), 1);
        drop(second);
        assert!(logs.lock().interested.is_empty());
    }
}
