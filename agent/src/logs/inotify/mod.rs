//! The one inotify instance of the agent, opened on first use: which follower waits for which file, or for which name in
//! which directory. The kernel has one watch for each inode; followers share it, and the last to go removes it.

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

/// Written to, truncated (MODIFY), renamed, deleted, replaced (ATTRIB: it has a link less).
const FILE_EVENTS: WatchFlags = WatchFlags::MODIFY
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::DELETE_SELF);
/// A name comes or goes, or may be read from now on (ATTRIB).
const DIRECTORY_EVENTS: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::ATTRIB);

/// A few hundred events.
const EVENT_BUFFER_SIZE: usize = 8 << 10;

#[derive(Debug, Default)]
pub(super) struct Watches {
    table: Mutex<Table>,
}

/// The pattern of a name.
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

/// Who waits for something in one watched directory or file.
#[derive(Debug, Default)]
struct Waiters {
    /// For a name in it, or without a name for itself.
    by_name: HashMap<Box<[u8]>, BTreeMap<u64, Arc<Notify>>>,
    /// For all names of a pattern.
    by_pattern: BTreeMap<u64, (Pattern, Arc<Notify>)>,
}

impl Waiters {
    fn is_empty(&self) -> bool {
        self.by_name.is_empty() && self.by_pattern.is_empty()
    }

    fn wake(&self, name: &[u8]) {
        if let Some(by_name) = self.by_name.get(name) {
            by_name.values().for_each(|wake| wake.notify_one());
        }
        let by_pattern = self.by_pattern.values().filter(|(pattern, _)| pattern.matches(name));
        by_pattern.for_each(|(_, wake)| wake.notify_one());
    }

    fn wake_all(&self) {
        let by_name = self.by_name.values().flat_map(BTreeMap::values);
        let by_pattern = self.by_pattern.values().map(|(_, wake)| wake);
        by_name.chain(by_pattern).for_each(|wake| wake.notify_one());
    }

    fn remove(&mut self, waiter: u64, name: &[u8]) {
        self.by_pattern.remove(&waiter);
        if let Some(by_name) = self.by_name.get_mut(name) {
            by_name.remove(&waiter);
            if by_name.is_empty() {
                self.by_name.remove(name);
            }
        }
    }
}

/// What a waiter waits for.
enum NameFilter<'a> {
    Exact(&'a [u8]),
    Pattern(&'a Pattern),
}

#[derive(Debug, Default)]
struct Table {
    instance: Option<Arc<AsyncFd<OwnedFd>>>,
    /// By watch descriptor, which the kernel does not give twice.
    watched: HashMap<i32, Waiters>,
    next: u64,
}

/// Wakes its follower until it is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    watches: Arc<Watches>,
    descriptor: i32,
    name: Box<[u8]>,
    waiter: u64,
}

impl Watches {
    /// Wakes whenever something happens to an open file.
    pub(super) fn file(self: &Arc<Self>, file: impl AsFd, wake: &Arc<Notify>) -> io::Result<Watch> {
        self.add(file, FILE_EVENTS, NameFilter::Exact(&[]), wake)
    }

    /// Wakes whenever something happens to a name in an open directory.
    pub(super) fn name(self: &Arc<Self>, directory: impl AsFd, name: &OsStr, wake: &Arc<Notify>) -> io::Result<Watch> {
        self.add(directory, DIRECTORY_EVENTS, NameFilter::Exact(name.as_bytes()), wake)
    }

    /// Wakes whenever something happens to a name of that pattern in an open directory.
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
        what: NameFilter<'_>,
        wake: &Arc<Notify>,
    ) -> io::Result<Watch> {
        // By its descriptor it is this inode, whatever has its path by now; and the look-up of a path could block, which
        // must not happen under the lock.
        let target = format!("/proc/self/fd/{}", target.as_fd().as_raw_fd());
        // The lock is held from here on: the last follower of the same inode may just be going.
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
        let waiter = table.next;
        table.next += 1;
        let waiters = table.watched.entry(descriptor).or_default();
        let name: Box<[u8]> = match what {
            NameFilter::Exact(name) => {
                let by_name = waiters.by_name.entry(name.into()).or_default();
                by_name.insert(waiter, wake.clone());
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

    /// Wakes those whom an event concerns.
    fn wake(&self, event: &inotify::Event<'_>) {
        let mut table = self.lock();
        if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
            // Any event may be among the lost ones.
            table.watched.values().for_each(Waiters::wake_all);
            return;
        }
        let Some(waiters) = table.watched.get(&event.wd()) else {
            return;
        };
        if event.events().contains(ReadFlags::IGNORED) {
            // The inode has gone, and the watch with it.
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
                // It fails if the inode has gone, and the watch with it.
                let _ = inotify::remove_watch(instance.get_ref(), self.descriptor);
            }
        }
    }
}

async fn forward(instance: Arc<AsyncFd<OwnedFd>>, watches: Arc<Watches>) {
    let mut buffer = vec![MaybeUninit::uninit(); EVENT_BUFFER_SIZE];
    // An error says that the runtime ends.
    while let Ok(mut ready) = instance.readable().await {
        // One buffer, then others have their turn. That there is nothing more is the only way in which this read fails.
        let _ = ready.try_io(|instance| batch(instance.get_ref(), &mut buffer, &watches));
    }
}

fn batch(instance: &OwnedFd, buffer: &mut [MaybeUninit<u8>], watches: &Watches) -> io::Result<()> {
    let mut events = Reader::new(instance, buffer);
    loop {
        watches.wake(&events.next()?);
        if events.is_buffer_empty() {
            return Ok(());
        }
    }
}
