//! Waits for a path to come into being: each directory on the way to it is watched for the next name, as far as there are
//! directories. So it is noticed too when one of them appears, is replaced or is deleted. Blocking calls.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use tokio::sync::Notify;

use super::inotify::{Watch, Watches};

/// `None` if not everything that matters can be watched.
pub(super) fn watch(watches: &Arc<Watches>, path: &Path, wake: &Arc<Notify>) -> Option<Vec<Watch>> {
    let mut directory = PathBuf::from("/");
    let mut held = Vec::new();
    for name in path.components().skip(1) {
        match open(
            &directory,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Ok(opened) => held.push(watches.name(opened, name.as_os_str(), wake).ok()?),
            // The one above is watched for its name; but where a link leads to nothing, something may appear elsewhere.
            Err(Errno::NOENT | Errno::NOTDIR) => return (!directory.is_symlink()).then_some(held),
            Err(_) => return None,
        }
        directory.push(name);
    }
    Some(held)
}
