//! Logs: followed before they exist, while they grow, when they are truncated, replaced, deleted.

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
    /// Of a piece that was taken only in part.
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

    /// Over a connection of its own.
    async fn start(agent: &Agent, path: &Path, position: Option<LogPosition>) -> Self {
        Self::new(&mut client(agent).await, path, position).await
    }

    async fn event(&mut self) -> Event {
        assert_eq!(self.rest, b"", "more data than expected");
        soon(self.events.message()).await.unwrap().unwrap().event.unwrap()
    }

    async fn absent(&mut self) {
        let event = self.event().await;
        assert!(matches!(event, Event::Absent(_)), "{event:?}");
    }

    async fn begins(&mut self, offset: u64) -> LogPosition {
        match self.event().await {
            Event::Begins(position) if position.offset == offset => position,
            event => panic!("not the beginning at {offset}: {event:?}"),
        }
    }

    /// So many bytes, in pieces however they come.
    async fn data(&mut self, length: usize) -> Vec<u8> {
        let mut data = std::mem::take(&mut self.rest);
        while data.len() < length {
            match self.event().await {
                Event::Data(piece) => {
                    assert!((1..=MAX_CHUNK).contains(&piece.len()));
                    data.extend_from_slice(&piece);
                }
                event => panic!("no data: {event:?}"),
            }
        }
        self.rest = data.split_off(length);
        data
    }

    async fn says(&mut self, text: &str) {
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

/// An agent, and a log that does not exist yet.
fn absent() -> (Agent, PathBuf) {
    let agent = Agent::start();
    let path = agent.dir.path().join("console-0242.log");
    (agent, path)
}

/// What the agent watches.
fn watches(agent: &Agent) -> usize {
    let infos = fs::read_dir(format!("/proc/{}/fdinfo", agent.pid())).unwrap();
    let infos = infos.filter_map(|info| fs::read_to_string(info.ok()?.path()).ok());
    infos.map(|info| info.matches("inotify wd").count()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_log_is_followed_from_before_it_exists() {
    let (agent, path) = absent();
    let mut follower = Follower::start(&agent, &path, None).await;
    follower.absent().await;
    let mut file = File::create(&path).unwrap();
    follower.begins(0).await;
    file.write_all(b"one\n").unwrap();
    follower.says("one\n").await;
    let mut second = Follower::start(&agent, &path, None).await;
    second.begins(0).await;
    second.says("one\n").await;
    let binary: Vec<u8> = (0..=255).cycle().take(1000).collect();
    file.write_all(&binary).unwrap();
    assert_eq!(follower.data(1000).await, binary);
    assert_eq!(second.data(1000).await, binary);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_follower_goes_on_where_it_was_cut_off() {
    let (agent, path) = absent();
    append(&path, "0123456789");
    let start = Follower::start(&agent, &path, None).await.begins(0).await;
    let at = |offset| {
        Some(LogPosition {
            offset,
            ..start.clone()
        })
    };
    let mut follower = Follower::start(&agent, &path, at(7)).await;
    assert_eq!(follower.begins(7).await.file, start.file);
    follower.says("789").await;
    let mut at_the_end = Follower::start(&agent, &path, at(10)).await;
    at_the_end.begins(10).await;
    append(&path, "ten");
    at_the_end.says("ten").await;
    // Shorter than that: truncated meanwhile.
    Follower::start(&agent, &path, at(14)).await.begins(0).await;
    drop((follower, at_the_end));
    // The file system may give the new file the inode of the old one.
    fs::remove_file(&path).unwrap();
    append(&path, "abcdefghij");
    let mut replaced = Follower::start(&agent, &path, at(7)).await;
    assert_ne!(replaced.begins(0).await.file, start.file);
    replaced.says("abcdefghij").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_position_waits_for_a_file_that_is_away() {
    let (agent, path) = absent();
    append(&path, "0123456789");
    let position = Follower::start(&agent, &path, None).await.begins(0).await;
    let away = path.with_extension("away");
    fs::rename(&path, &away).unwrap();
    let mut follower = Follower::start(&agent, &path, Some(LogPosition { offset: 4, ..position })).await;
    follower.absent().await;
    fs::rename(&away, &path).unwrap();
    follower.begins(4).await;
    follower.says("456789").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_truncated_or_replaced_log_begins_anew() {
    let (agent, path) = absent();
    append(&path, "long before\n");
    let mut follower = Follower::start(&agent, &path, None).await;
    let first = follower.begins(0).await;
    follower.says("long before\n").await;
    File::create(&path).unwrap();
    assert_eq!(follower.begins(0).await.file, first.file);
    append(&path, "short\n");
    follower.says("short\n").await;
    let new = path.with_extension("new");
    append(&new, "replaced\n");
    fs::rename(&new, &path).unwrap();
    assert_ne!(follower.begins(0).await.file, first.file);
    follower.says("replaced\n").await;
    append(&path, "more\n");
    follower.says("more\n").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_deleted_log_is_absent_until_it_comes_back() {
    let (agent, path) = absent();
    let mut follower = Follower::start(&agent, &path, None).await;
    follower.absent().await;
    for round in 0..3 {
        append(&path, format!("round {round}\n"));
        follower.begins(0).await;
        follower.says(&format!("round {round}\n")).await;
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
        follower.absent().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_file_that_goes_is_read_to_its_end() {
    const LENGTH: usize = 8 << 20;
    let (agent, path) = absent();
    append(&path, vec![b'x'; LENGTH]);
    let mut follower = Follower::start(&agent, &path, None).await;
    follower.begins(0).await;
    fs::remove_file(&path).unwrap();
    assert_eq!(follower.data(LENGTH).await, vec![b'x'; LENGTH]);
    follower.absent().await;
    append(&path, vec![b'y'; LENGTH]);
    follower.begins(0).await;
    let new = path.with_extension("new");
    append(&new, "new");
    fs::rename(&new, &path).unwrap();
    assert_eq!(follower.data(LENGTH).await, vec![b'y'; LENGTH]);
    follower.begins(0).await;
    follower.says("new").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn quick_replacements_are_neither_missed_nor_read_twice() {
    let (agent, path) = absent();
    let mut follower = Follower::start(&agent, &path, None).await;
    follower.absent().await;
    for round in 0..500 {
        let line = format!("round {round}\n");
        append(&path, &line);
        loop {
            match follower.event().await {
                Event::Begins(_) => break,
                // It may have been seen that the one before went, or not.
                Event::Absent(_) => {}
                Event::Data(data) => panic!("read twice: {data:?}"),
            }
        }
        follower.says(&line).await;
        // Each wakes the follower, which is somewhere between two looks when the file goes.
        let last = ".".repeat(round % 20);
        for dot in last.bytes() {
            append(&path, [dot]);
        }
        fs::remove_file(&path).unwrap();
        follower.says(&last).await;
    }
    follower.absent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn directories_may_come_and_go() {
    let (agent, _) = absent();
    let outer = agent.dir.path().join("outer");
    let path = outer.join("inner/console.log");
    let mut follower = Follower::start(&agent, &path, None).await;
    follower.absent().await;
    for round in 0..20 {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        append(&path, "there");
        follower.begins(0).await;
        follower.says("there").await;
        fs::remove_dir_all(&outer).unwrap();
        follower.absent().await;
        // An outer directory that another one replaces, each of them without the file at first.
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let away = agent.dir.path().join(format!("away-{round}"));
        fs::rename(&outer, away).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn only_regular_files_are_logs() {
    let (agent, path) = absent();
    let real = path.with_extension("real");
    append(&real, "real");
    fs::create_dir(&path).unwrap();
    let mut follower = Follower::start(&agent, &path, None).await;
    follower.absent().await;
    fs::remove_dir(&path).unwrap();
    symlink(&real, &path).unwrap();
    Follower::start(&agent, &path, None).await.absent().await;
    fs::remove_file(&path).unwrap();
    let made = agent.sh(&format!("mkfifo {}", path.display())).await;
    assert_eq!(made.stderr, b"");
    Follower::start(&agent, &path, None).await.absent().await;
    // Nobody holds its other end.
    let write = OpenOptions::new().write(true).custom_flags(0o4000).open(&path);
    assert_eq!(write.unwrap_err().raw_os_error(), Some(6));
    fs::rename(&real, &path).unwrap();
    follower.begins(0).await;
    follower.says("real").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_cannot_be_done_is_said() {
    let (agent, path) = absent();
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
    let (agent, path) = absent();
    append(&path, "");
    let mut fast = Follower::start(&agent, &path, None).await;
    let mut slow = Follower::start(&agent, &path, None).await;
    fast.begins(0).await;
    slow.begins(0).await;
    let content: Vec<u8> = (0..LENGTH as u64 / 8).flat_map(u64::to_le_bytes).collect();
    let written = content.clone();
    let log = path.clone();
    let writer = std::thread::spawn(move || {
        for piece in written.chunks(100_000) {
            append(&log, piece);
        }
    });
    // While the slow one reads nothing at all.
    assert!(fast.data(LENGTH).await == content);
    writer.join().unwrap();
    let memory = usage(agent.pid()).memory;
    assert!(memory < 8 << 10, "{memory} kB for what a reader has not taken");
    assert!(slow.data(LENGTH).await == content);
    append(&path, "end");
    fast.says("end").await;
    slow.says("end").await;
}

/// Clock ticks of processor time.
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
        present.begins(0).await;
        present.says("line\n").await;
        let mut absent = Follower::new(&mut client, &path.with_extension("absent"), None).await;
        absent.absent().await;
        followers.extend([present, absent]);
    }
    eventually("threads that looked have ended", || {
        usage(agent.pid()).threads <= before.threads
    });
    let idle = usage(agent.pid());
    let watched = watches(&agent);
    let (used, start) = (ticks(&agent), std::time::Instant::now());
    // Not to wait for something, but to see that nothing happens.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let used = ticks(&agent) - used;
    assert!(used <= 3, "{used} ticks in {:?}", start.elapsed());
    assert_eq!(usage(agent.pid()).threads, idle.threads);
    // One for each file, one for each directory on the way to the others.
    assert!((EACH..EACH + 10).contains(&watched), "{watched}");
    let each = (idle.memory - before.memory) as usize / followers.len();
    assert!(each <= 16, "{each} kB for each");
    // They are awake all the same.
    append(&agent.dir.path().join("present-7.log"), "more\n");
    followers[14].says("more\n").await;
    append(&agent.dir.path().join("present-7.absent"), "there\n");
    followers[15].begins(0).await;
    followers[15].says("there\n").await;
    drop(followers);
    eventually("watches, files and memory are given back", || {
        let now = usage(agent.pid());
        // What is left is the connection and inotify itself.
        watches(&agent) == 0 && now.descriptors <= before.descriptors + 2 && now.memory <= 3 << 10
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn without_inotify_a_log_is_followed_all_the_same() {
    for limit in ["max_inotify_instances", "max_inotify_watches"] {
        let agent = Agent::start_without_inotify(limit);
        let path = agent.dir.path().join("console.log");
        let mut follower = Follower::start(&agent, &path, None).await;
        follower.absent().await;
        append(&path, "one\n");
        follower.begins(0).await;
        follower.says("one\n").await;
        append(&path, "two\n");
        follower.says("two\n").await;
        fs::remove_file(&path).unwrap();
        follower.absent().await;
        assert_eq!(watches(&agent), 0);
    }
}

/// Names of the form `a*.log`.
async fn watch(agent: &Agent, directory: &Path) -> Streaming<WatchEvent> {
    let request = WatchRequest {
        directory: bytes(directory),
        prefix: "a".into(),
        suffix: ".log".into(),
    };
    soon(client(agent).await.watch(request)).await.unwrap().into_inner()
}

#[tokio::test]
async fn names_are_told_as_they_come_and_go() {
    let agent = Agent::start();
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("a1.log"), "").unwrap();
    fs::write(path("b.log"), "").unwrap();
    let mut names = watch(&agent, directory.path()).await;
    let mut next = async || soon(names.message()).await.unwrap().unwrap();
    let told = |all, appeared: &[&str], gone: &[&str]| WatchEvent {
        all,
        appeared: appeared.iter().map(|name| (*name).to_owned().into()).collect(),
        gone: gone.iter().map(|name| (*name).to_owned().into()).collect(),
    };
    assert_eq!(next().await, told(true, &["a1.log"], &[]));
    fs::write(path("a.txt"), "").unwrap();
    fs::write(path("a2.log"), "").unwrap();
    assert_eq!(next().await, told(false, &["a2.log"], &[]));
    fs::rename(path("a2.log"), path("a3")).unwrap();
    assert_eq!(next().await, told(false, &[], &["a2.log"]));
    fs::rename(path("a3"), path("a3.log")).unwrap();
    assert_eq!(next().await, told(false, &["a3.log"], &[]));
    fs::remove_dir_all(directory.path()).unwrap();
    let mut gone = Vec::new();
    while gone.len() < 2 {
        gone.extend(next().await.gone);
    }
    fs::create_dir(directory.path()).unwrap();
    fs::write(path("a4.log"), "").unwrap();
    assert_eq!(next().await, told(false, &["a4.log"], &[]));
}

#[tokio::test]
async fn more_names_than_a_message_holds_are_told() {
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
