//! Detects the end of a Zuul build: Zuul then removes the kubeconfig together with the job's directory. The bridge must
//! end by itself: a crashed executor leaves no process that would end the bridge, only the loop that starts it again.
//! `zuul_slot` waits here.

use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use tokio::time::sleep;

use crate::sys;

/// Time after which a file that is being replaced exists again.
const REPLACE_PAUSE: Duration = Duration::from_millis(100);
/// Interval between checks if the directory cannot be watched.
const POLL_INTERVAL: Duration = Duration::from_secs(15);

/// Waits until the file no longer exists.
pub(super) async fn wait(kubeconfig: &Path) {
    let watched = match watch(kubeconfig).await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(%error, "the kubeconfig cannot be watched");
            false
        }
    };
    while !watched && !is_gone(kubeconfig).await {
        sleep(POLL_INTERVAL).await;
    }
}

/// Returns whether the file does not exist and is not being replaced.
async fn is_gone(kubeconfig: &Path) -> bool {
    if !is_absent(kubeconfig) {
        return false;
    }
    sleep(REPLACE_PAUSE).await;
    is_absent(kubeconfig)
}

/// Returns whether the file certainly does not exist. A file that cannot be examined may exist.
fn is_absent(path: &Path) -> bool {
    match path.try_exists() {
        Ok(exists) => !exists,
        Err(error) => error.kind() == io::ErrorKind::NotADirectory,
    }
}

/// Waits with inotify until the file no longer exists.
async fn watch(kubeconfig: &Path) -> io::Result<()> {
    let directory = kubeconfig.parent().unwrap_or(Path::new("/"));
    let watcher = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let flags = WatchFlags::DELETE
        | WatchFlags::MOVED_FROM
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
        | WatchFlags::ONLYDIR;
    match inotify::add_watch(&watcher, directory, flags) {
        Ok(_) => {}
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    }
    let watcher = sys::watch_readable(watcher)?;
    let mut buffer = [0; 4096];
    while !is_gone(kubeconfig).await {
        let mut ready = watcher.readable().await?;
        // The kind of event does not matter: the file is examined again.
        while rustix::io::read(&watcher, &mut buffer[..]).is_ok_and(|count| count > 0) {}
        ready.clear_ready();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[tokio::test]
    async fn only_removing_the_file_ends_the_build() {
        let directory = tempfile::tempdir().unwrap();
        let (config, other) = (directory.path().join("config"), directory.path().join("other"));
        fs::write(&config, "x").unwrap();
        let waiting = tokio::spawn({
            let config = config.clone();
            async move { wait(&config).await }
        });
        for _ in 0..3 {
            fs::write(&config, "y").unwrap();
            fs::write(&other, "z").unwrap();
            fs::rename(&other, &config).unwrap();
            sleep(Duration::from_millis(20)).await;
        }
        assert!(!waiting.is_finished());
        fs::remove_dir_all(directory.path()).unwrap();
        waiting.await.unwrap();
    }
}
