//! Files.Write and Files.Get: continuing after a broken stream, holes, roots, files that change, full disks.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use podbridge_proto::digest::ContentHasher;
use podbridge_proto::limits::ERRNO_METADATA;
use podbridge_proto::v1::get_response::Part as GetPart;
use podbridge_proto::v1::put_request::Part;
use podbridge_proto::v1::{Abandon, Digest, GetRequest, PutHeader, PutRequest, PutTrailer, StatRequest, WriteProgress};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::files::bytes;
use crate::harness::{Agent, eventually, soon};

/// One stream of a transfer.
struct Sending {
    parts: mpsc::Sender<PutRequest>,
    answers: Streaming<WriteProgress>,
}

fn header(path: &Path, id: u8) -> PutHeader {
    PutHeader {
        path: bytes(path),
        digest: Digest::Blake3.into(),
        transfer_id: vec![id; 16].into(),
        ..Default::default()
    }
}

impl Sending {
    /// Starts a stream; returns it with the agent's first answer.
    async fn begin(agent: &Agent, header: PutHeader) -> Result<(Self, WriteProgress), Status> {
        let (parts, outgoing) = mpsc::channel(64);
        let first = PutRequest {
            part: Some(Part::Header(header)),
        };
        parts.send(first).await.unwrap();
        let answers = soon(agent.files().await.write(ReceiverStream::new(outgoing))).await?;
        let mut sending = Self {
            parts,
            answers: answers.into_inner(),
        };
        let first = sending.answer().await?;
        Ok((sending, first))
    }

    async fn answer(&mut self) -> Result<WriteProgress, Status> {
        soon(self.answers.message()).await.map(|answer| answer.unwrap())
    }

    async fn send(&self, part: Part) {
        self.parts.send(PutRequest { part: Some(part) }).await.unwrap();
    }

    async fn data(&self, data: &[u8]) {
        self.send(Part::Data(data.to_vec().into())).await;
    }

    /// Ends the transfer with the length and digest of `content`; returns the last answer.
    async fn finish(mut self, content: &[u8]) -> Result<WriteProgress, Status> {
        let (length, digest) = (content.len() as u64, blake3(content));
        let trailer = Part::Trailer(PutTrailer { length, digest });
        // Fails if the agent has refused an earlier part; its answer follows below.
        let _ = self.parts.send(PutRequest { part: Some(trailer) }).await;
        loop {
            let answer = self.answer().await?;
            if answer.done.is_some() {
                return Ok(answer);
            }
        }
    }
}

fn blake3(content: &[u8]) -> Bytes {
    let mut hasher = ContentHasher::new(Digest::Blake3);
    hasher.update(content);
    hasher.digest().to_vec().into()
}

fn temporaries(directory: &Path) -> usize {
    let names = fs::read_dir(directory)
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name());
    names
        .filter(|name| name.to_str().unwrap().starts_with(".podbridge-"))
        .count()
}

/// Returns the content with holes as zeros, the number of bytes sent as data, and the version.
async fn get(agent: &Agent, request: GetRequest) -> Result<(Vec<u8>, u64, Bytes), Status> {
    let request = GetRequest {
        digest: Digest::Blake3.into(),
        sparse: true,
        ..request
    };
    let mut parts = agent.files().await.get(request).await?.into_inner();
    let (mut content, mut sent, mut version) = (Vec::new(), 0, Bytes::new());
    while let Some(part) = soon(parts.message()).await? {
        match part.part.unwrap() {
            GetPart::Stat(stat) => version = stat.version,
            GetPart::Data(data) => {
                sent += data.len() as u64;
                content.extend_from_slice(&data);
            }
            GetPart::Hole(count) => content.resize(content.len() + count as usize, 0),
            GetPart::Trailer(trailer) => {
                assert_eq!(
                    (trailer.length, trailer.digest),
                    (content.len() as u64, blake3(&content))
                );
                return Ok((content, sent, version));
            }
        }
    }
    panic!("no trailer")
}

fn whole(path: &Path) -> GetRequest {
    GetRequest {
        path: bytes(path),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_transfer_continues_where_its_stream_broke_and_is_completed_once() {
    let agent = Agent::start();
    let path = agent.dir.path().join("file");
    let content: Vec<u8> = (0..3_000_000u32).map(|i| (i % 251) as u8).collect();
    let (mut sending, first) = Sending::begin(&agent, header(&path, 1)).await.unwrap();
    assert_eq!(first.length, 0);
    sending.data(&content[..1_000_000]).await;
    let written = sending.answer().await.unwrap().length;
    assert!((256 << 10..=1_000_000).contains(&written), "{written}");
    drop(sending);

    let (sending, first) = Sending::begin(&agent, header(&path, 1)).await.unwrap();
    assert_eq!(first.length, 1_000_000, "the agent keeps every byte that arrived");
    assert!(!path.exists());
    sending.data(&content[1_000_000..]).await;
    let done = sending.finish(&content).await.unwrap();
    assert_eq!(
        (done.length, &done.done.unwrap().digest),
        (3_000_000, &blake3(&content))
    );
    assert!(fs::read(&path).unwrap() == content);

    // The answer may have been lost: the agent repeats it and writes nothing.
    fs::remove_file(&path).unwrap();
    let (_, again) = Sending::begin(&agent, header(&path, 1)).await.unwrap();
    assert_eq!(again.done.unwrap().digest, blake3(&content));
    assert!(!path.exists());
    assert_eq!(temporaries(agent.dir.path()), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_second_stream_takes_the_transfer_from_the_first() {
    let agent = Agent::start();
    let path = agent.dir.path().join("file");
    let (first, _) = Sending::begin(&agent, header(&path, 1)).await.unwrap();
    first.data(b"abc").await;
    // The first stream is still open, as over a link that hangs.
    let (second, kept) = Sending::begin(&agent, header(&path, 1)).await.unwrap();
    let rest = &b"abcdef"[kept.length as usize..];
    second.data(rest).await;
    second.finish(b"abcdef").await.unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"abcdef");
    drop(first);
    let other = Sending::begin(&agent, header(&agent.dir.path().join("other"), 1)).await;
    assert!(other.unwrap().1.done.is_some(), "a transfer is completed once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_abandoned_transfer_is_removed_at_once_and_a_broken_one_when_the_agent_ends() {
    let mut agent = Agent::start();
    let path = agent.dir.path().join("file");
    let (sending, _) = Sending::begin(&agent, header(&path, 1)).await.unwrap();
    sending.data(b"abc").await;
    eventually("the temporary file exists", || temporaries(agent.dir.path()) == 1);
    sending.send(Part::Abandon(Abandon {})).await;
    eventually("the temporary file is removed", || temporaries(agent.dir.path()) == 0);

    let (sending, _) = Sending::begin(&agent, header(&path, 2)).await.unwrap();
    sending.data(b"abc").await;
    eventually("the temporary file exists", || temporaries(agent.dir.path()) == 1);
    drop(sending);
    // The agent must not remove the file in this time.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(temporaries(agent.dir.path()), 1, "the temporary file is kept");
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(agent.pid() as i32).unwrap(),
        rustix::process::Signal::TERM,
    )
    .unwrap();
    eventually("the agent ends", || agent.ended());
    assert_eq!(temporaries(agent.dir.path()), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn holes_stay_holes_in_write_and_get() {
    const HOLE: u64 = 64 << 20;
    let agent = Agent::start();
    let path = agent.dir.path().join("sparse");
    let (sending, _) = Sending::begin(&agent, header(&path, 1)).await.unwrap();
    let mut content = vec![0; 2 * HOLE as usize + 5];
    content[HOLE as usize..][..5].copy_from_slice(b"hello");
    sending.send(Part::Hole(HOLE)).await;
    sending.data(b"hello").await;
    sending.send(Part::Hole(HOLE)).await;
    sending.finish(&content).await.unwrap();
    assert!(fs::read(&path).unwrap() == content);
    let blocks = fs::metadata(&path).unwrap().blocks();
    assert!(blocks <= 64, "{blocks}");

    let (got, sent, _) = get(&agent, whole(&path)).await.unwrap();
    assert!(got == content);
    assert!(sent <= 64 << 10, "{sent} bytes of data were sent");
    let offset = HOLE + 2;
    let (got, ..) = get(&agent, GetRequest { offset, ..whole(&path) }).await.unwrap();
    assert!(got == content[offset as usize..]);

    let (sending, _) = Sending::begin(&agent, header(&path, 2)).await.unwrap();
    sending.send(Part::Hole(u64::MAX)).await;
    let refused = sending.finish(b"").await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_changed_file_has_another_version_and_a_change_during_the_read_is_an_error() {
    let agent = Agent::start();
    let path = agent.dir.path().join("file");
    fs::write(&path, vec![1; 32 << 20]).unwrap();
    let (_, _, version) = get(&agent, whole(&path)).await.unwrap();
    assert_eq!(get(&agent, whole(&path)).await.unwrap().2, version);

    let mut files = agent.files().await;
    // Nothing is read yet, so that the flow-control windows stop the agent in the middle.
    let mut parts = files.get(whole(&path)).await.unwrap().into_inner();
    let mut changing = fs::OpenOptions::new().write(true).open(&path).unwrap();
    std::io::Write::write_all(&mut changing, b"2").unwrap();
    let failed = loop {
        match soon(parts.message()).await {
            Ok(Some(part)) => assert!(
                !matches!(part.part, Some(GetPart::Trailer(_))),
                "the change was not noticed"
            ),
            Ok(None) => panic!("neither a trailer nor an error"),
            Err(status) => break status,
        }
    };
    assert!(failed.message().contains("changed while it was read"), "{failed}");
    assert_ne!(get(&agent, whole(&path)).await.unwrap().2, version);

    // A file that grows, like a log, is read up to its old size.
    let mut parts = files.get(whole(&path)).await.unwrap().into_inner();
    let mut growing = fs::OpenOptions::new().append(true).open(&path).unwrap();
    std::io::Write::write_all(&mut growing, b"more").unwrap();
    let mut length = 0;
    while let Some(part) = soon(parts.message()).await.unwrap() {
        if let Some(GetPart::Trailer(trailer)) = part.part {
            length = trailer.length;
        }
    }
    assert_eq!(length, 32 << 20);

    // A file that shrinks is an error, not a shorter file.
    let mut parts = files.get(whole(&path)).await.unwrap().into_inner();
    changing.set_len(1000).unwrap();
    let ended = loop {
        match soon(parts.message()).await {
            Ok(Some(_)) => {}
            ended => break ended,
        }
    };
    assert!(
        ended.unwrap_err().message().contains("changed"),
        "the file became shorter"
    );

    let (stat, ..) = get(&agent, whole(Path::new("/proc/self/stat"))).await.unwrap();
    assert!(stat.starts_with(agent.pid().to_string().as_bytes()));
    assert!(
        !get(&agent, whole(Path::new("/sys/kernel/mm/transparent_hugepage/enabled")))
            .await
            .unwrap()
            .0
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_symbolic_link_is_followed_without_a_root_and_refused_below_one() {
    let agent = Agent::start();
    let root = agent.dir.path().join("root");
    fs::create_dir_all(root.join("sub")).unwrap();
    fs::write(agent.dir.path().join("secret"), "secret").unwrap();
    fs::write(root.join("sub/file"), "inside").unwrap();
    symlink("../secret", root.join("link")).unwrap();
    symlink("..", root.join("up")).unwrap();
    let below = |path: &'static str| GetRequest {
        path: path.into(),
        root: Some(bytes(&root)),
        ..Default::default()
    };
    assert_eq!(get(&agent, below("./sub/file")).await.unwrap().0, b"inside");
    assert_eq!(get(&agent, whole(&root.join("link"))).await.unwrap().0, b"secret");
    for (path, words) in [
        ("link", "symbolic link"),
        ("up/secret", "symbolic link"),
        ("../secret", "`..`"),
        ("sub/../../secret", "`..`"),
        ("/etc/passwd", "`..`"),
        (".", "`..`"),
    ] {
        let refused = get(&agent, below(path)).await.unwrap_err();
        assert!(refused.message().contains(words), "{path}: {refused}");
        let header = PutHeader {
            path: path.into(),
            root: Some(bytes(&root)),
            ..header(&root, 1)
        };
        let (sending, _) = match Sending::begin(&agent, header).await {
            Ok(started) => started,
            Err(refused) => panic!("{path}: {refused}"),
        };
        let refused = sending.finish(b"").await.unwrap_err();
        assert!(refused.message().contains(words), "{path}: {refused}");
        let request = StatRequest {
            path: path.into(),
            root: Some(bytes(&root)),
            no_follow: false,
        };
        assert!(agent.files().await.stat(request).await.is_err(), "{path}");
    }
    let missing = StatRequest {
        path: "no/such".into(),
        root: Some(bytes(&root)),
        no_follow: false,
    };
    let missing = agent.files().await.stat(missing).await.unwrap();
    assert_eq!(missing.into_inner().stat, None);
    assert_eq!(fs::read(agent.dir.path().join("secret")).unwrap(), b"secret");
}

/// Another thread exchanges a directory below the root and a link out of it while files are written there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_race_writes_outside_a_root() {
    let agent = Agent::start();
    let (root, outside) = (agent.dir.path().join("root"), agent.dir.path().join("outside"));
    fs::create_dir_all(root.join("inside")).unwrap();
    fs::create_dir(&outside).unwrap();
    symlink(&outside, root.join("link")).unwrap();
    let is_done = Arc::new(AtomicBool::new(false));
    let exchanging = std::thread::spawn({
        let (root, is_done) = (root.clone(), is_done.clone());
        move || {
            while !is_done.load(Ordering::SeqCst) {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(
                    rustix::fs::CWD,
                    root.join("inside"),
                    rustix::fs::CWD,
                    root.join("link"),
                    flags,
                )
                .unwrap();
            }
        }
    });
    let (mut written, mut refused) = (0, 0);
    for round in 0..400u32 {
        let id = [&round.to_be_bytes()[..], &[0; 12]].concat();
        let header = PutHeader {
            path: "inside/file".into(),
            root: Some(bytes(&root)),
            transfer_id: id.into(),
            ..header(&root, 1)
        };
        let (sending, _) = Sending::begin(&agent, header).await.unwrap();
        match sending.finish(b"").await {
            Ok(_) => written += 1,
            Err(status) => {
                assert!(status.message().contains("symbolic link"), "{status}");
                refused += 1;
            }
        }
    }
    is_done.store(true, Ordering::SeqCst);
    exchanging.join().unwrap();
    assert!(
        written > 0 && refused > 0,
        "no race: {written} were written, {refused} were refused"
    );
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_full_disk_is_an_error_and_leaves_no_file() {
    let agent = Agent::start_with_small_disk();
    // The disk is visible in the agent's own mount namespace only.
    let disk = Path::new("/proc").join(agent.pid().to_string()).join("root");
    let disk = disk.join(agent.dir.path().strip_prefix("/").unwrap()).join("disk");
    let path = agent.dir.path().join("disk/file");
    let header = PutHeader {
        sync: true,
        ..header(&path, 1)
    };
    let (mut sending, _) = Sending::begin(&agent, header.clone()).await.unwrap();
    let block = vec![7; 1 << 20];
    let full = loop {
        let part = PutRequest {
            part: Some(Part::Data(block.clone().into())),
        };
        tokio::select! {
            sent = sending.parts.send(part) => if sent.is_err() { break sending.answer().await.unwrap_err() },
            answer = sending.answers.message() => match answer {
                Ok(answer) => assert!(answer.unwrap().length < 8 << 20),
                Err(status) => break status,
            },
        }
    };
    assert_eq!(full.metadata().get(ERRNO_METADATA).unwrap(), "28", "{full}");
    assert!(full.message().contains("no space"), "{full}");
    eventually("no temporary file is left", || temporaries(&disk) == 0);
    let (sending, first) = Sending::begin(&agent, header).await.unwrap();
    assert_eq!(first.length, 0);
    sending.data(b"fits").await;
    sending.finish(b"fits").await.unwrap();
    assert_eq!(fs::read(disk.join("file")).unwrap(), b"fits");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_file_removed_during_the_read_is_read_completely() {
    let agent = Agent::start();
    let path = agent.dir.path().join("file");
    fs::write(&path, vec![1; 32 << 20]).unwrap();
    let mut parts = agent.files().await.get(whole(&path)).await.unwrap().into_inner();
    fs::remove_file(&path).unwrap();
    let mut length = 0;
    while let Some(part) = soon(parts.message()).await.unwrap() {
        if let Some(GetPart::Trailer(trailer)) = part.part {
            length = trailer.length;
        }
    }
    assert_eq!(length, 32 << 20);
}
