//! Logs: followed before they exist, while they grow, and when they are truncated, replaced or deleted; names of a directory watched.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};

use podbridge_proto::limits::{ERRNO_METADATA, MAX_CHUNK};
use podbridge_proto::v1::follow_event::Event;
use podbridge_proto::v1::logs_client::LogsClient;
use podbridge_proto::v1::{FollowEvent, FollowRequest, LogPosition, RemoveRequest, WatchEvent, WatchRequest};
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use crate::harness::{Agent, eventually, soon};
use crate::measure::{settled_usage, usage};

struct Follower {
    events: Streaming<FollowEvent>,
    /// Rest of a chunk that was read only in part.
    rest: Vec<u8>,
}

impl Follower {
    async fn new(client: &mut LogsClient<Channel>, path: &Path, position: Option<LogPosition>) -> Self {
        let request = FollowRequest {
            path: bytes(path),
            position,
        };
        let events = soon(client.follow(request)).await.unwrap().into_inner();
        Self {
            events,
            rest: Vec::new(),
        }
    }

    /// Starts a follower on a connection of its own.
    async fn start(agent: &Agent, path: &Path, position: Option<LogPosition>) -> Self {
        Self::new(&mut client(agent).await, path, position).await
    }

    async fn event(&mut self) -> Event {
        assert_eq!(self.rest, b"", "more data than expected");
        soon(self.events.message()).await.unwrap().unwrap().event.unwrap()
    }

    async fn expect_absent(&mut self) {
        let event = self.event().await;
        assert!(matches!(event, Event::Absent(_)), "{event:?}");
    }

    async fn expect_begins(&mut self, offset: u64) -> LogPosition {
        match self.event().await {
            Event::Begins(position) if position.offset == offset => position,
            event => panic!("not the beginning at {offset}: {event:?}"),
        }
    }

    /// Returns the next `length` bytes, in whatever chunks they arrive.
    async fn data(&mut self, length: usize) -> Vec<u8> {
        let mut data = std::mem::take(&mut self.rest);
        while data.len() < length {
            match self.event().await {
                Event::Data(chunk) => {
                    assert!((1..=MAX_CHUNK).contains(&chunk.len()));
                    data.extend_from_slice(&chunk);
                }
                event => panic!("no data: {event:?}"),
            }
        }
        self.rest = data.split_off(length);
        data
    }

    async fn expect_text(&mut self, text: &str) {
        let data = self.data(text.len()).await;
        assert_eq!(String::from_utf8_lossy(&data), text);
    }
}

fn bytes(path: &Path) -> bytes::Bytes {
    path.to_str().unwrap().to_owned().into()
}

async fn client(agent: &Agent) -> LogsClient<Channel> {
    LogsClient::new(agent.channel().await)
}

fn append(path: &Path, text: impl AsRef<[u8]>) {
    let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
    file.write_all(text.as_ref()).unwrap();
}

/// Returns an agent, and the path of a log that does not exist yet.
fn agent_and_log_path() -> (Agent, PathBuf) {
    let agent = Agent::start();
    let path = agent.dir.path().join("console-0242.log");
    (agent, path)
}

/// Returns the number of the agent's inotify watches.
fn watches(agent: &Agent) -> usize {
    let infos = fs::read_dir(format!("/proc/{}/fdinfo", agent.pid())).unwrap();
    let infos = infos.filter_map(|info| fs::read_to_string(info.ok()?.path()).ok());
    infos.map(|info| info.matches("inotify wd").count()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_log_is_followed_from_before_it_exists() {
    let (agent, path) = agent_and_log_path();
    let mut follower = Follower::start(&agent, &path, None).await;
    follower.expect_absent().await;
    let mut file = File::create(&path).unwrap();
    follower.expect_begins(0).await;
    file.write_all(b"one\n").unwrap();
    follower.expect_text("one\n").await;
    let mut second = Follower::start(&agent, &path, None).await;
    second.expect_begins(0).await;
    second.expect_text("one\n").await;
    let binary: Vec<u8> = (0..=255).cycle().take(1000).collect();
    file.write_all(&binary).unwrap();
    assert_eq!(follower.data(1000).await, binary);
    assert_eq!(second.data(1000).await, binary);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_follower_continues_at_its_position() {
    let (agent, path) = agent_and_log_path();
    append(&path, "0123456789");
    let start = Follower::start(&agent, &path, None).await.expect_begins(0).await;
    let at = |offset| {
        Some(LogPosition {
            offset,
            ..start.clone()
        })
    };
    let mut follower = Follower::start(&agent, &path, at(7)).await;
    assert_eq!(follower.expect_begins(7).await.file, start.file);
    follower.expect_text("789").await;
    let mut at_the_end = Follower::start(&agent, &path, at(10)).await;
    at_the_end.expect_begins(10).await;
    append(&path, "ten");
    at_the_end.expect_text("ten").await;
    // The file is shorter than the position: it was truncated meanwhile.
    Follower::start(&agent, &path, at(14)).await.expect_begins(0).await;
    drop((follower, at_the_end));
    // The file system may give the new file the inode of the old one.
    fs::remove_file(&path).unwrap();
    append(&path, "abcdefghij");
    let mut replaced = Follower::start(&agent, &path, at(7)).await;
    assert_ne!(replaced.expect_begins(0).await.file, start.file);
    replaced.expect_text("abcdefghij").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_position_is_used_when_its_file_comes_back() {
    let (agent, path) = agent_and_log_path();
    append(&path, "0123456789");
    let position = Follower::start(&agent, &path, None).await.expect_begins(0).await;
    let away = path.with_extension("away");
    fs::rename(&path, &away).unwrap();
    let mut follower = Follower::start(&agent, &path, Some(LogPosition { offset: 4, ..position })).await;
    follower.expect_absent().await;
    fs::rename(&away, &path).unwrap();
    follower.expect_begins(4).await;
    follower.expect_text("456789").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_truncated_or_replaced_log_is_read_from_its_start() {
    let (agent, path) = agent_and_log_path();
    append(&path, "long before\n");
    let mut follower = Follower::start(&agent, &path, None).await;
    let first = follower.expect_begins(0).await;
    follower.expect_text("long before\n").await;
    File::create(&path).unwrap();
    assert_eq!(follower.expect_begins(0).await.file, first.file);
    append(&path, "short\n");
    follower.expect_text("short\n").await;
    let new = path.with_extension("new");
    append(&new, "replaced\n");
    fs::rename(&new, &path).unwrap();
    assert_ne!(follower.expect_begins(0).await.file, first.file);
    follower.expect_text("replaced\n").await;
    append(&path, "more\n");
    follower.expect_text("more\n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_deleted_log_is_absent_until_it_comes_back() {
    let (agent, path) = agent_and_log_path();
    let mut follower = Follower::start(&agent, &path, None).await;
    follower.expect_absent().await;
    for round in 0..3 {
        append(&path, format!("round {round}\n"));
        follower.expect_begins(0).await;
        follower.expect_text(&format!("round {round}\n")).await;
        match round {
            0 => fs::remove_file(&path).unwrap(),
            1 => fs::rename(&path, path.with_extension("away")).unwrap(),
            _ => {
                let remove = RemoveRequest { path: bytes(&path) };
                let mut client = client(&agent).await;
                soon(client.remove(remove.clone())).await.unwrap();
                soon(client.remove(remove)).await.unwrap();
            }
        }
        follower.expect_absent().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_deleted_or_replaced_file_is_read_to_its_end() {
    const LENGTH: usize = 8 << 20;
    let (agent, path) = agent_and_log_path();
    append(&path, vec![b'x'; LENGTH]);
    let mut follower = Follower::start(&agent, &path, None).await;
    follower.expect_begins(0).await;
    fs::remove_file(&path).unwrap();
    assert_eq!(follower.data(LENGTH).await, vec![b'x'; LENGTH]);
    follower.expect_absent().await;
    append(&path, vec![b'y'; LENGTH]);
    follower.expect_begins(0).await;
    let new = path.with_extension("new");
    append(&new, "new");
    fs::rename(&new, &path).unwrap();
    assert_eq!(follower.data(LENGTH).await, vec![b'y'; LENGTH]);
    follower.expect_begins(0).await;
    follower.expect_text("new").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn quick_replacements_are_neither_missed_nor_read_twice() {
    let (agent, path) = agent_and_log_path();
    let mut follower = Follower::start(&agent, &path, None).await;
    follower.expect_absent().await;
    for round in 0..500 {
        let line = format!("round {round}\n");
        append(&path, &line);
        loop {
            match follower.event().await {
                Event::Begins(_) => break,
                // Depends on whether a check saw the absence of the previous file.
                Event::Absent(_) => {}
                Event::Data(data) => panic!("read twice: {data:?}"),
            }
        }
        follower.expect_text(&line).await;
        // Each dot wakes the follower, so that the file is deleted at any moment between two checks.
        let last = ".".repeat(round % 20);
        for dot in last.bytes() {
            append(&path, [dot]);
        }
        fs::remove_file(&path).unwrap();
        follower.expect_text(&last).await;
    }
    follower.expect_absent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_log_is_followed_although_its_directories_are_deleted_and_replaced() {
    let (agent, _) = agent_and_log_path();
    let outer = agent.dir.path().join("outer");
    let path = outer.join("inner/console.log");
    let mut follower = Follower::start(&agent, &path, None).await;
    follower.expect_absent().await;
    for round in 0..20 {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        append(&path, "there");
        follower.expect_begins(0).await;
        follower.expect_text("there").await;
        fs::remove_dir_all(&outer).unwrap();
        follower.expect_absent().await;
        // The outer directory is replaced by another one that does not have the file yet.
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let away = agent.dir.path().join(format!("away-{round}"));
        fs::rename(&outer, away).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn only_regular_files_are_logs() {
    let (agent, path) = agent_and_log_path();
    let real = path.with_extension("real");
    append(&real, "real");
    fs::create_dir(&path).unwrap();
    let mut follower = Follower::start(&agent, &path, None).await;
    follower.expect_absent().await;
    fs::remove_dir(&path).unwrap();
    symlink(&real, &path).unwrap();
    Follower::start(&agent, &path, None).await.expect_absent().await;
    fs::remove_file(&path).unwrap();
    let made = agent.sh(&format!("mkfifo {}", path.display())).await;
    assert_eq!(made.stderr, b"");
    Follower::start(&agent, &path, None).await.expect_absent().await;
    // ENXIO: the agent has not opened the FIFO.
    let write = OpenOptions::new().write(true).custom_flags(0o4000).open(&path);
    assert_eq!(write.unwrap_err().raw_os_error(), Some(6));
    fs::rename(&real, &path).unwrap();
    follower.expect_begins(0).await;
    follower.expect_text("real").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn invalid_paths_and_failed_calls_are_errors() {
    let (agent, path) = agent_and_log_path();
    let mut client = client(&agent).await;
    for path in ["", "tmp/log", "/tmp/\0log"] {
        let request = FollowRequest {
            path: path.into(),
            position: None,
        };
        let refused = client.follow(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        let refused = client.remove(RemoveRequest { path: path.into() }).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
    fs::create_dir(&path).unwrap();
    let refused = client.remove(RemoveRequest { path: bytes(&path) }).await.unwrap_err();
    assert_eq!(refused.metadata().get(ERRNO_METADATA).unwrap(), "21");
    assert!(refused.message().ends_with("log: cannot delete it: is a directory"));
    let request = FollowRequest {
        path: format!("/tmp/{}", "x".repeat(300)).into(),
        position: None,
    };
    let mut events = client.follow(request).await.unwrap().into_inner();
    let refused = soon(events.message()).await.unwrap_err();
    assert_eq!(refused.metadata().get(ERRNO_METADATA).unwrap(), "36");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_slows_only_itself() {
    const LENGTH: usize = 64 << 20;
    let (agent, path) = agent_and_log_path();
    append(&path, "");
    let mut fast = Follower::start(&agent, &path, None).await;
    let mut slow = Follower::start(&agent, &path, None).await;
    fast.expect_begins(0).await;
    slow.expect_begins(0).await;
    let content: Vec<u8> = (0..LENGTH as u64 / 8).flat_map(u64::to_le_bytes).collect();
    let written = content.clone();
    let log = path.clone();
    let writer = std::thread::spawn(move || {
        for chunk in written.chunks(100_000) {
            append(&log, chunk);
        }
    });
    // The slow follower reads nothing meanwhile.
    assert!(fast.data(LENGTH).await == content);
    writer.join().unwrap();
    let memory = usage(agent.pid()).memory;
    assert!(memory < 8 << 10, "{memory} kB for data that a reader has not taken");
    assert!(slow.data(LENGTH).await == content);
    append(&path, "end");
    fast.expect_text("end").await;
    slow.expect_text("end").await;
}

/// Returns the agent's CPU time in clock ticks.
fn ticks(agent: &Agent) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", agent.pid())).unwrap();
    let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn idle_followers_cost_nothing_and_leave_nothing() {
    const EACH: usize = 1000;
    let agent = Agent::start();
    let before = settled_usage(&agent);
    let mut client = client(&agent).await;
    let mut followers = Vec::new();
    for number in 0..EACH {
        let path = agent.dir.path().join(format!("present-{number}.log"));
        append(&path, "line\n");
        let mut present = Follower::new(&mut client, &path, None).await;
        present.expect_begins(0).await;
        present.expect_text("line\n").await;
        let mut absent = Follower::new(&mut client, &path.with_extension("absent"), None).await;
        absent.expect_absent().await;
        followers.extend([present, absent]);
    }
    eventually("the threads of the checks have ended", || {
        usage(agent.pid()).threads <= before.threads
    });
    let idle = usage(agent.pid());
    let watched = watches(&agent);
    let (used, start) = (ticks(&agent), std::time::Instant::now());
    // This waits for no event: nothing must happen in this time.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let used = ticks(&agent) - used;
    assert!(used <= 3, "{used} ticks in {:?}", start.elapsed());
    assert_eq!(usage(agent.pid()).threads, idle.threads);
    // One watch per existing file, and one per directory on the path of the absent ones.
    assert!((EACH..EACH + 10).contains(&watched), "{watched}");
    let each = (idle.memory - before.memory) as usize / followers.len();
    assert!(each <= 16, "{each} kB for each");
    // An event still wakes them.
    append(&agent.dir.path().join("present-7.log"), "more\n");
    followers[14].expect_text("more\n").await;
    append(&agent.dir.path().join("present-7.absent"), "there\n");
    followers[15].expect_begins(0).await;
    followers[15].expect_text("there\n").await;
    drop(followers);
    eventually("watches, files and memory are given back", || {
        let now = usage(agent.pid());
        // The connection and the inotify instance remain.
        watches(&agent) == 0 && now.descriptors <= before.descriptors + 2 && now.memory <= 3 << 10
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_log_is_followed_without_inotify() {
    for limit in ["max_inotify_instances", "max_inotify_watches"] {
        let agent = Agent::start_without_inotify(limit);
        let path = agent.dir.path().join("console.log");
        let mut follower = Follower::start(&agent, &path, None).await;
        follower.expect_absent().await;
        append(&path, "one\n");
        follower.expect_begins(0).await;
        follower.expect_text("one\n").await;
        append(&path, "two\n");
        follower.expect_text("two\n").await;
        fs::remove_file(&path).unwrap();
        follower.expect_absent().await;
        assert_eq!(watches(&agent), 0);
    }
}

/// Watches the names `a*.log`.
async fn watch(agent: &Agent, directory: &Path) -> Streaming<WatchEvent> {
    let request = WatchRequest {
        directory: bytes(directory),
        prefix: "a".into(),
        suffix: ".log".into(),
    };
    soon(client(agent).await.watch(request)).await.unwrap().into_inner()
}

#[tokio::test]
async fn appearing_and_disappearing_names_are_reported() {
    let agent = Agent::start();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("a1.log"), "").unwrap();
    fs::write(path("b.log"), "").unwrap();
    let mut names = watch(&agent, directory.path()).await;
    let mut next = async || soon(names.message()).await.unwrap().unwrap();
    let event = |all, appeared: &[&str], gone: &[&str]| WatchEvent {
        all,
        appeared: appeared.iter().map(|name| (*name).to_owned().into()).collect(),
        gone: gone.iter().map(|name| (*name).to_owned().into()).collect(),
    };
    assert_eq!(next().await, event(true, &["a1.log"], &[]));
    fs::write(path("a.txt"), "").unwrap();
    fs::write(path("a2.log"), "").unwrap();
    assert_eq!(next().await, event(false, &["a2.log"], &[]));
    fs::rename(path("a2.log"), path("a3")).unwrap();
    assert_eq!(next().await, event(false, &[], &["a2.log"]));
    fs::rename(path("a3"), path("a3.log")).unwrap();
    assert_eq!(next().await, event(false, &["a3.log"], &[]));
    fs::remove_dir_all(directory.path()).unwrap();
    let mut gone = Vec::new();
    while gone.len() < 2 {
        gone.extend(next().await.gone);
    }
    fs::create_dir(directory.path()).unwrap();
    fs::write(path("a4.log"), "").unwrap();
    assert_eq!(next().await, event(false, &["a4.log"], &[]));
}

#[tokio::test]
async fn more_names_than_fit_into_a_message_are_all_reported() {
    const COUNT: usize = 2000;
    let agent = Agent::start();
    let directory = tempfile::tempdir().unwrap();
    for n in 0..COUNT {
        fs::write(directory.path().join(format!("a{n:0200}.log")), "").unwrap();
    }
    let mut names = watch(&agent, directory.path()).await;
    let mut appeared = 0;
    let mut messages = 0;
    while appeared < COUNT {
        let event = soon(names.message()).await.unwrap().unwrap();
        assert_eq!(event.all, messages == 0);
        appeared += event.appeared.len();
        messages += 1;
    }
    assert!(appeared == COUNT && messages > 2);
}

/// Everybody can make files in /tmp.
#[tokio::test]
async fn names_without_end_are_refused_and_not_remembered() {
    const COUNT: usize = 40_000;
    let agent = Agent::start();
    let directory = tempfile::tempdir().unwrap();
    for n in 0..COUNT {
        File::create(directory.path().join(format!("a{n}.log"))).unwrap();
    }
    let before = settled_usage(&agent).memory;
    let status = soon(watch(&agent, directory.path()).await.message()).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().contains("more than 16384 names"), "{status:?}");
    // A name that is asked for is still followed.
    let mut follower = Follower::start(&agent, &directory.path().join("a7.log"), None).await;
    follower.expect_begins(0).await;
    drop(follower);
    assert!(settled_usage(&agent).memory <= before + 2048);
}

/// Another user may have made a hard link to a file that he may not read.
#[tokio::test]
async fn a_file_with_another_name_is_no_log() {
    let (agent, path) = agent_and_log_path();
    let secret = agent.dir.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    fs::hard_link(&secret, &path).unwrap();
    let mut follower = Follower::start(&agent, &path, None).await;
    follower.expect_absent().await;
    fs::remove_file(&path).unwrap();
    fs::write(&path, "log").unwrap();
    follower.expect_begins(0).await;
    assert_eq!(follower.data(3).await, b"log");
}
