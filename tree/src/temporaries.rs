//! Temporary files of running copies, each beside its target. A temporary file is removed when its guard is dropped, and all of them
//! when the process ends.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use podbridge_files::temporary::{self, TemporaryName};
use rustix::fs::{AtFlags, renameat, unlinkat};
use rustix::io::Errno;

/// Names of the temporary files that exist, each with its directory.
type LiveNames = HashMap<TemporaryName, Arc<OwnedFd>>;

/// Set of the temporary files that exist; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Temporaries(Arc<Mutex<LiveNames>>);

/// Number of the next temporary name. It starts at random, so that processes do not collide.
static NUMBER: LazyLock<AtomicU64> = LazyLock::new(|| AtomicU64::new(temporary::random_number()));

impl Temporaries {
    fn live(&self) -> MutexGuard<'_, LiveNames> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a temporary file with `make`, which gets an unused name. A name that exists is skipped.
    pub(crate) fn create<T>(
        &self,
        directory: &Arc<OwnedFd>,
        make: impl Fn(&[u8]) -> Result<T, Errno>,
    ) -> Result<(Temporary, T), Errno> {
        loop {
            let name = temporary::name(NUMBER.fetch_add(1, Ordering::Relaxed));
            // The lock is held, so that `remove_all` sees every file that is made.
            let mut live = self.live();
            match make(&name) {
                Ok(made) => {
                    live.insert(name, directory.clone());
                    let temporary = Temporary {
                        owner: self.clone(),
                        directory: directory.clone(),
                        name,
                    };
                    return Ok((temporary, made));
                }
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Returns whether this process made a temporary file of this name and still has it.
    pub(crate) fn contains(&self, name: &[u8]) -> bool {
        TemporaryName::try_from(name).is_ok_and(|name| self.live().contains_key(&name))
    }

    /// Removes all temporary files of a process that is about to exit. The lock stays taken: a thread that wants to make another
    /// temporary file blocks until the exit.
    pub fn remove_all(&self) {
        let live = self.live();
        for (name, directory) in live.iter() {
            let _ = unlinkat(directory, &name[..], AtFlags::empty());
        }
        std::mem::forget(live);
    }
}

/// Guard of one temporary file; removes the file when it is dropped before `rename`.
#[derive(Debug)]
pub(crate) struct Temporary {
    owner: Temporaries,
    directory: Arc<OwnedFd>,
    name: TemporaryName,
}

impl Temporary {
    pub(crate) fn name(&self) -> &[u8] {
        &self.name
    }

    /// Renames the file over its target in the same directory.
    pub(crate) fn rename(&self, name: &[u8]) -> Result<(), Errno> {
        renameat(&self.directory, self.name(), &self.directory, name)?;
        self.owner.live().remove(&self.name);
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let mut live = self.owner.live();
        if live.remove(&self.name).is_some() {
            // An error is ignored: the file system may be gone, and no caller is left to report it to.
            let _ = unlinkat(&self.directory, self.name(), AtFlags::empty());
        }
    }
}
