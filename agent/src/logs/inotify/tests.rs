//! Who is woken by what, with a real inotify instance.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::*;

async fn woken(wake: &Notify) {
    let woken = timeout(Duration::from_secs(20), wake.notified()).await;
    woken.expect("it is woken");
}

async fn sleeps(wake: &Notify) -> bool {
    timeout(Duration::ZERO, wake.notified()).await.is_err()
}

fn in_kernel(watches: &Watches) -> usize {
    let instance = watches.lock().instance.clone().unwrap();
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", instance.as_raw_fd())).unwrap();
    info.lines().filter(|line| line.starts_with("inotify wd")).count()
}

/// Two that wait for names in one directory.
fn two(directory: &TempDir) -> (Arc<Watches>, [(Arc<Notify>, Watch); 2]) {
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
async fn an_event_wakes_those_who_wait_for_that_name() {
    let directory = tempfile::tempdir().unwrap();
    let (_watches, [(one, _first), (two, _second)]) = two(&directory);
    fs::write(directory.path().join("another"), "").unwrap();
    fs::write(directory.path().join("two"), "").unwrap();
    woken(&two).await;
    assert!(sleeps(&one).await);
}

#[tokio::test]
async fn the_last_follower_of_an_inode_removes_its_watch() {
    let directory = tempfile::tempdir().unwrap();
    let (watches, [(_, first), (two, second)]) = two(&directory);
    assert_eq!(in_kernel(&watches), 1);
    drop(first);
    fs::write(directory.path().join("two"), "").unwrap();
    woken(&two).await;
    drop(second);
    assert_eq!(in_kernel(&watches), 0);
    assert!(watches.lock().watched.is_empty());
}

#[tokio::test]
async fn an_unlinked_file_wakes_though_it_is_open() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("file");
    let file = File::create(&path).unwrap();
    let watches = Arc::<Watches>::default();
    let wake = Arc::<Notify>::default();
    let _watch = watches.file(&file, &wake).unwrap();
    fs::remove_file(&path).unwrap();
    woken(&wake).await;
}

#[tokio::test]
async fn a_directory_that_goes_wakes_all_who_wait_in_it() {
    let directory = tempfile::tempdir().unwrap();
    let (watches, [(one, first), (two, _second)]) = two(&directory);
    directory.close().unwrap();
    woken(&one).await;
    woken(&two).await;
    assert!(watches.lock().watched.is_empty());
    // The watch went by itself, and this is no error.
    drop(first);
}

#[tokio::test]
async fn lost_events_wake_everybody() {
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    let limit: usize = limit.trim().parse().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (_watches, [(one, _first), (two, _second)]) = two(&directory);
    // This thread is the runtime's only one: nobody reads the queue meanwhile.
    let path = directory.path().join("another");
    for _ in 0..=limit / 2 {
        fs::write(&path, "").unwrap();
        fs::remove_file(&path).unwrap();
    }
    woken(&one).await;
    woken(&two).await;
}
