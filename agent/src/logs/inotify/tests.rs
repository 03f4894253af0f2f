//! Which events wake which waiters, with a real inotify instance.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::*;

async fn wait_until_woken(wake: &Notify) {
    let woken = timeout(Duration::from_secs(20), wake.notified()).await;
    woken.expect("it is woken");
}

async fn is_asleep(wake: &Notify) -> bool {
    timeout(Duration::ZERO, wake.notified()).await.is_err()
}

/// Returns the number of watches in the kernel.
fn kernel_watches(watches: &Watches) -> usize {
    let instance = watches.lock().instance.clone().unwrap();
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", instance.as_raw_fd())).unwrap();
    info.lines().filter(|line| line.starts_with("inotify wd")).count()
}

/// Returns two waiters, for the names `one` and `two` in one directory.
fn two_waiters(directory: &TempDir) -> (Arc<Watches>, [(Arc<Notify>, Watch); 2]) {
    let watches = Arc::<Watches>::default();
    let opened = File::open(directory.path()).unwrap();
    let waiters = ["one", "two"].map(|name| {
        let wake = Arc::<Notify>::default();
        let watch = watches.name(&opened, name.as_ref(), &wake).unwrap();
        (wake, watch)
    });
    (watches, waiters)
}

#[tokio::test]
async fn an_event_wakes_only_the_waiters_for_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let (_watches, [(one, _first), (two, _second)]) = two_waiters(&directory);
    fs::write(directory.path().join("another"), "").unwrap();
    fs::write(directory.path().join("two"), "").unwrap();
    wait_until_woken(&two).await;
    assert!(is_asleep(&one).await);
}

#[tokio::test]
async fn the_last_waiter_of_an_inode_removes_its_watch() {
    let directory = tempfile::tempdir().unwrap();
    let (watches, [(_, first), (two, second)]) = two_waiters(&directory);
    assert_eq!(kernel_watches(&watches), 1);
    drop(first);
    fs::write(directory.path().join("two"), "").unwrap();
    wait_until_woken(&two).await;
    drop(second);
    assert_eq!(kernel_watches(&watches), 0);
    assert!(watches.lock().watched.is_empty());
}

#[tokio::test]
async fn unlinking_an_open_file_wakes_its_waiter() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    let file = File::create(&path).unwrap();
    let watches = Arc::<Watches>::default();
    let wake = Arc::<Notify>::default();
    let _watch = watches.file(&file, &wake).unwrap();
    fs::remove_file(&path).unwrap();
    wait_until_woken(&wake).await;
}

#[tokio::test]
async fn removing_a_directory_wakes_all_its_waiters() {
    let directory = tempfile::tempdir().unwrap();
    let (watches, [(one, first), (two, _second)]) = two_waiters(&directory);
    directory.close().unwrap();
    wait_until_woken(&one).await;
    wait_until_woken(&two).await;
    assert!(watches.lock().watched.is_empty());
    // The kernel has removed the watch; dropping its guard is no error.
    drop(first);
}

#[tokio::test]
async fn lost_events_wake_all_waiters() {
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (_watches, [(one, _first), (two, _second)]) = two_waiters(&directory);
    // This thread is the runtime's only one: no task reads the queue meanwhile.
    let path = directory.path().join("another");
    for _ in 0..=limit / 2 {
        fs::write(&path, "").unwrap();
        fs::remove_file(&path).unwrap();
    }
    wait_until_woken(&one).await;
    wait_until_woken(&two).await;
}
