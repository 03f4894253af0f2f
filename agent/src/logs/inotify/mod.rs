//! The agent's only inotify instance, opened on first use: the table of files and names that followers and name watchers wait for, and
//! the task that reads the events and wakes them. The kernel has one watch per inode; the waiters share it, and the last one removes it.

#[cfg(test)]
mod tests;

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, Mutex, MutexGuard};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use crate::sys::descriptors;

/// Events of a file: written or truncated (MODIFY), renamed, deleted, replaced (ATTRIB, because the file has one link less).
const FILE_EVENTS: WatchFlags = WatchFlags::MODIFY
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::DELETE_SELF);
/// Events of a directory: a name appears or disappears, or its file becomes readable (ATTRIB).
const DIRECTORY_EVENTS: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::ATTRIB);

/// Size of the read buffer in bytes: a few hundred events.
const EVENT_BUFFER_SIZE: usize = 8 << 10;

/// Table of all waiters; opens the inotify instance on first use.
#[derive(Debug, Default)]
pub(super) struct Watches {
    table: Mutex<Table>,
}

/// Names with this prefix and this suffix.
#[derive(Debug, Clone)]
pub struct Pattern {
    pub prefix: Box<[u8]>,
    pub suffix: Box<[u8]>,
}

impl Pattern {
    pub(super) fn matches(&self, name: &[u8]) -> bool {
        let rest = name.strip_prefix(&*self.prefix);
        rest.is_some_and(|rest| rest.ends_with(&self.suffix))
    }
}

/// Tasks that wait for events of one watched directory or file; the keys `u64` are waiter numbers.
#[derive(Debug, Default)]
struct Waiters {
    /// Waiters for one name in the directory; the empty name stands for the watched file itself.
    by_name: HashMap<Box<[u8]>, BTreeMap<u64, Arc<Notify>>>,
    /// Waiters for all names that match a pattern.
    by_pattern: BTreeMap<u64, (Pattern, Arc<Notify>)>,
}

impl Waiters {
    fn is_empty(&self) -> bool {
        self.by_name.is_empty() && self.by_pattern.is_empty()
    }

    fn wake(&self, name: &[u8]) {
        if let Some(waiters) = self.by_name.get(name) {
            waiters.values().for_each(|wake| wake.notify_one());
        }
        let matching = self.by_pattern.values().filter(|(pattern, _)| pattern.matches(name));
        matching.for_each(|(_, wake)| wake.notify_one());
    }

    fn wake_all(&self) {
        let by_name = self.by_name.values().flat_map(BTreeMap::values);
        let by_pattern = self.by_pattern.values().map(|(_, wake)| wake);
        by_name.chain(by_pattern).for_each(|wake| wake.notify_one());
    }

    fn remove(&mut self, waiter: u64, name: &[u8]) {
        self.by_pattern.remove(&waiter);
        if let Some(waiters) = self.by_name.get_mut(name) {
            waiters.remove(&waiter);
            if waiters.is_empty() {
                self.by_name.remove(name);
            }
        }
    }
}

/// Names that a waiter waits for.
enum NameFilter<'a> {
    Exact(&'a [u8]),
    Pattern(&'a Pattern),
}

#[derive(Debug, Default)]
struct Table {
    instance: Option<Arc<AsyncFd<OwnedFd>>>,
    /// Waiters by watch descriptor, which the kernel never reuses.
    watched: HashMap<i32, Waiters>,
    next_waiter: u64,
}

/// Guard of one waiter: its task is woken until the guard is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    watches: Arc<Watches>,
    descriptor: i32,
    name: Box<[u8]>,
    waiter: u64,
}

impl Watches {
    /// Notifies `wake` on every event of an open file.
    pub(super) fn file(self: &Arc<Self>, file: impl AsFd, wake: &Arc<Notify>) -> io::Result<Watch> {
        self.add(file, FILE_EVENTS, NameFilter::Exact(&[]), wake)
    }

    /// Notifies `wake` on every event of one name in an open directory.
    pub(super) fn name(self: &Arc<Self>, directory: impl AsFd, name: &OsStr, wake: &Arc<Notify>) -> io::Result<Watch> {
        self.add(directory, DIRECTORY_EVENTS, NameFilter::Exact(name.as_bytes()), wake)
    }

    /// Notifies `wake` on every event of a matching name in an open directory.
    pub(super) fn names(
        self: &Arc<Self>,
        directory: impl AsFd,
        pattern: &Pattern,
        wake: &Arc<Notify>,
    ) -> io::Result<Watch> {
        self.add(directory, DIRECTORY_EVENTS, NameFilter::Pattern(pattern), wake)
    }

    fn add(
        self: &Arc<Self>,
        target: impl AsFd,
        events: WatchFlags,
        filter: NameFilter<'_>,
        wake: &Arc<Notify>,
    ) -> io::Result<Watch> {
        // The path through /proc names this very inode, whatever the real path names by now. And the look-up of a real path could block,
        // which must not happen under the lock.
        let target = format!("/proc/self/fd/{}", target.as_fd().as_raw_fd());
        // Locked from here on, because the last waiter of the same inode may remove its watch at this moment.
        let mut table = self.lock();
        let instance = match &table.instance {
            Some(instance) => instance.clone(),
            None => {
                let instance = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
                let instance = Arc::new(descriptors::watch(instance, Interest::READABLE)?);
                tokio::spawn(forward(instance.clone(), self.clone()));
                table.instance.insert(instance).clone()
            }
        };
        let descriptor = inotify::add_watch(instance.get_ref(), target, events)?;
        let waiter = table.next_waiter;
        table.next_waiter += 1;
        let waiters = table.watched.entry(descriptor).or_default();
        let name: Box<[u8]> = match filter {
            NameFilter::Exact(name) => {
                let same_name = waiters.by_name.entry(name.into()).or_default();
                same_name.insert(waiter, wake.clone());
                name.into()
            }
            NameFilter::Pattern(pattern) => {
                waiters.by_pattern.insert(waiter, (pattern.clone(), wake.clone()));
                Box::default()
            }
        };
        Ok(Watch {
            watches: self.clone(),
            descriptor,
            name,
            waiter,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no panic while the table is locked")
    }

    /// Wakes the tasks that wait for this event.
    fn wake(&self, event: &inotify::Event<'_>) {
        let mut table = self.lock();
        if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
            // The kernel dropped events, so every waiter checks again.
            table.watched.values().for_each(Waiters::wake_all);
            return;
        }
        let Some(waiters) = table.watched.get(&event.wd()) else {
            return;
        };
        if event.events().contains(ReadFlags::IGNORED) {
            // The kernel removed the inode and the watch with it.
            waiters.wake_all();
            table.watched.remove(&event.wd());
            return;
        }
        waiters.wake(event.file_name().map_or(&[][..], |name| name.to_bytes()));
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut table = self.watches.lock();
        let table = &mut *table;
        let Entry::Occupied(mut waiters) = table.watched.entry(self.descriptor) else {
            return;
        };
        waiters.get_mut().remove(self.waiter, &self.name);
        if waiters.get().is_empty() {
            waiters.remove();
            if let Some(instance) = &table.instance {
                // Fails if the kernel has removed the inode and the watch with it.
                let _ = inotify::remove_watch(instance.get_ref(), self.descriptor);
            }
        }
    }
}

/// Reads events and wakes their waiters; one task per agent. It sleeps while nothing happens to the watched files.
async fn forward(instance: Arc<AsyncFd<OwnedFd>>, watches: Arc<Watches>) {
    let mut buffer = vec![MaybeUninit::uninit(); EVENT_BUFFER_SIZE];
    // An error means that the runtime ends.
    while let Ok(mut ready) = instance.readable().await {
        // One buffer at a time, so that other tasks run in between. The read fails only when no event is left.
        let _ = ready.try_io(|instance| read_events(instance.get_ref(), &mut buffer, &watches));
    }
}

/// Reads one buffer of events.
fn read_events(instance: &OwnedFd, buffer: &mut [MaybeUninit<u8>], watches: &Watches) -> io::Result<()> {
    let mut events = Reader::new(instance, buffer);
    loop {
        watches.wake(&events.next()?);
        if events.is_buffer_empty() {
            return Ok(());
        }
    }
}
