//! Files that have no name of their own yet, beside the names that they are to have. Each is removed when it is dropped, and all at
//! once when the process has to end.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, renameat, unlinkat};
use rustix::io::Errno;
use rustix::rand::{GetRandomFlags, getrandom};

type Live = HashMap<Name, Arc<OwnedFd>>;
type Name = [u8; 27];

#[derive(Debug, Clone, Default)]
pub struct Temporaries(Arc<Mutex<Live>>);

const PREFIX: &str = ".podbridge-";

static NUMBER: LazyLock<AtomicU64> = LazyLock::new(|| {
    let mut random = [0; 8];
    // It never fails for so few bytes; a clash is seen when the file is made.
    let _ = getrandom(&mut random, GetRandomFlags::empty());
    AtomicU64::new(u64::from_ne_bytes(random))
});

impl Temporaries {
    fn live(&self) -> MutexGuard<'_, Live> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes one with a name of its own.
    pub(crate) fn create<T>(
        &self,
        directory: &Arc<OwnedFd>,
        make: impl Fn(&[u8]) -> Result<T, Errno>,
    ) -> Result<(Temporary, T), Errno> {
        loop {
            let name = name();
            // Under the lock, so that none is made that `remove_all` does not see.
            let mut live = self.live();
            match make(&name) {
                Ok(made) => {
                    live.insert(name, directory.clone());
                    let temporary = Temporary {
                        all: self.clone(),
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

    pub(crate) fn contain(&self, name: &[u8]) -> bool {
        Name::try_from(name).is_ok_and(|name| self.live().contains_key(&name))
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

fn name() -> Name {
    let text = format!("{PREFIX}{:016x}", NUMBER.fetch_add(1, Ordering::Relaxed));
    text.as_bytes().try_into().expect("11 and 16 characters")
}

/// Of whichever copy; the agent names those of single files so, too.
pub(crate) fn is_temporary(name: &[u8]) -> bool {
    let number = name.strip_prefix(PREFIX.as_bytes());
    number.is_some_and(|number| number.len() == 16 && number.iter().all(u8::is_ascii_hexdigit))
}

#[derive(Debug)]
pub(crate) struct Temporary {
    all: Temporaries,
    directory: Arc<OwnedFd>,
    name: Name,
}

impl Temporary {
    pub(crate) fn name(&self) -> &[u8] {
        &self.name
    }

    /// Gives it the name that it is to have.
    pub(crate) fn rename(&self, name: &[u8]) -> Result<(), Errno> {
        renameat(&self.directory, self.name(), &self.directory, name)?;
        self.all.live().remove(&self.name);
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let mut live = self.all.live();
        if live.remove(&self.name).is_some() {
            // The file system may be gone; there is nobody to tell.
            let _ = unlinkat(&self.directory, self.name(), AtFlags::empty());
        }
    }
}
