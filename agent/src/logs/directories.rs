//! Watches a path that does not exist yet: each existing directory on it is watched for the next name. So a directory that appears, is
//! replaced or is deleted wakes the waiting task, too. Blocking calls; `follower` and `name_watcher` make them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use tokio::sync::Notify;

use super::inotify::{Watch, Watches};

/// Watches every existing directory on the path. `None`: not every change that matters can be watched, so the caller must poll.
pub(super) fn watch(watches: &Arc<Watches>, path: &Path, wake: &Arc<Notify>) -> Option<Vec<Watch>> {
    let mut directory = PathBuf::from("/");
    let mut watched = Vec::new();
    for name in path.components().skip(1) {
        match open(
            &directory,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        ) {
            Ok(opened) => watched.push(watches.name(opened, name.as_os_str(), wake).ok()?),
            // The parent is watched for this name. But the target of a dangling symbolic link appears elsewhere, unwatched.
            Err(Errno::NOENT | Errno::NOTDIR) => return (!directory.is_symlink()).then_some(watched),
            Err(_) => return None,
        }
        directory.push(name);
    }
    Some(watched)
}
