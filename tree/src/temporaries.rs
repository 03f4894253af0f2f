//! Files that have no name of their own yet, beside the names that they are to have. Each is removed when it is dropped, and all at
//! once when the process has to end.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use podbridge_files::temporary::{self, TemporaryName};
use rustix::fs::{AtFlags, renameat, unlinkat};
use rustix::io::Errno;

type LiveNames = HashMap<TemporaryName, Arc<OwnedFd>>;

#[derive(Debug, Clone, Default)]
pub struct Temporaries(Arc<Mutex<LiveNames>>);

static NUMBER: LazyLock<AtomicU64> = LazyLock::new(|| AtomicU64::new(temporary::random_number()));

impl Temporaries {
    fn live(&self) -> MutexGuard<'_, LiveNames> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes one with a name of its own.
    pub(crate) fn create<T>(
        &self,
        directory: &Arc<OwnedFd>,
        make: impl Fn(&[u8]) -> Result<T, Errno>,
    ) -> Result<(Temporary, T), Errno> {
        loop {
            let name = temporary::name(NUMBER.fetch_add(1, Ordering::Relaxed));
            // Under the lock, so that none is made that `remove_all` does not see.
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

    pub(crate) fn contains(&self, name: &[u8]) -> bool {
        TemporaryName::try_from(name).is_ok_and(|name| self.live().contains_key(&name))
    }

    /// For a process that ends now: none can be made any more, whoever tries waits for ever.
    pub fn remove_all(&self) {
        let live = self.live();
        for (name, directory) in live.iter() {
            let _ = unlinkat(directory, &name[..], AtFlags::empty());
        }
        std::mem::forget(live);
    }
}

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

    /// Gives it the name that it is to have.
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
            // The file system may be gone; there is nobody to tell.
            let _ = unlinkat(&self.directory, self.name(), AtFlags::empty());
        }
    }
}
