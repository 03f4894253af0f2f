//! `podbridge cp`: one file to or from a pod, verified, mode and modification time kept. `-` is standard input or output.

mod destination;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::cli::{CpOptions, TargetOptions};
use crate::client::{self, BridgeAddress, Incoming, Message};
use crate::commands::bridge_of_pod::bridge_address;
use crate::commands::cp::destination::{PERMISSIONS, Sink};
use crate::commands::location::Side;
use crate::commands::progress::Progress;
use crate::config::BridgeSettings;
use crate::error::{Failure, Kind};
use crate::exit;
use crate::protocol::byte_string::ByteString;
use crate::protocol::request::{Get, Operation, Put, Request, Stat};
use crate::protocol::result::{FileStat, Outcome};
use crate::report::conclude;

const CHUNK: usize = 128 * 1024;
/// How often progress is looked at.
const TICK: Duration = Duration::from_millis(200);
/// So many bridges may die under one copy.
const BRIDGES: usize = 5;
const PAUSE: Duration = Duration::from_millis(20);
const TYPE: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;

pub(super) fn run(target: TargetOptions, options: BridgeSettings, command: CpOptions) -> Result<u8, Failure> {
    let (source, destination) = (Side::parse(&command.source)?, Side::parse(&command.destination)?);
    let container = target.container.clone();
    let copy = |bridge| Copy {
        bridge,
        container,
        quiet: command.quiet,
        sync: command.fsync,
    };
    let runtime = client::runtime()?;
    let copied = match (source, destination) {
        (Side::Pod { pod, path }, local @ (Side::Local(_) | Side::Standard)) => {
            let copy = copy(bridge_address(target, &pod, options)?);
            runtime.block_on(unless_interrupted(copy.download(path, local)))
        }
        (local @ (Side::Local(_) | Side::Standard), Side::Pod { pod, path }) => {
            let copy = copy(bridge_address(target, &pod, options)?);
            runtime.block_on(unless_interrupted(copy.upload(local, path, command.user)))
        }
        _ => Err(Failure::usage("exactly one of SRC and DST must be POD:PATH")),
    };
    // A thread that reads our stdin may wait for ever.
    runtime.shutdown_background();
    copied
}

/// Nothing half-done is left then.
async fn unless_interrupted(copying: impl Future<Output = Result<u8, Failure>>) -> Result<u8, Failure> {
    tokio::select! {
        copied = copying => copied,
        interrupted = client::interrupted() => interrupted,
    }
}

struct Copy {
    bridge: BridgeAddress,
    container: Option<String>,
    quiet: bool,
    sync: bool,
}

impl Copy {
    fn request(&self, operation: Operation) -> Request {
        Request {
            container: self.container.clone(),
            operation,
        }
    }

    /// Asks, and the next bridge again if one dies: what is only asked, and files that are passed, can be had again.
    async fn ask(
        &self,
        operation: Operation,
        descriptors: &[BorrowedFd<'_>],
        mut meanwhile: impl FnMut(&Incoming),
    ) -> Result<Outcome, Failure> {
        let request = self.request(operation);
        let mut died = 0;
        loop {
            let conversation = self.bridge.begin_with(&request, descriptors).await?;
            let client::Conversation {
                mut incoming,
                outgoing: _open,
            } = conversation;
            let mut tick = tokio::time::interval(TICK);
            let outcome = loop {
                tokio::select! {
                    message = incoming.next() => match message {
                        Message::Result(outcome) => return Ok(outcome),
                        Message::Lost(outcome) => break outcome,
                        Message::Started | Message::Stdout(_) | Message::Stderr(_) => {}
                    },
                    _ = tick.tick() => meanwhile(&incoming),
                }
            };
            died += 1;
            if died == BRIDGES {
                return Ok(outcome);
            }
            // A dying one still accepts connections for a moment.
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// `Err`: an outcome that ends the copy.
    async fn stat(&self, path: &[u8]) -> Result<Result<Option<FileStat>, Outcome>, Failure> {
        let stat = Stat {
            path: ByteString(path.to_vec()),
            no_follow: false,
            root: None,
        };
        Ok(match self.ask(Operation::Stat(stat), &[], |_| {}).await? {
            Outcome::Ok(done) => Ok(done.stat.flatten()),
            other => Err(other),
        })
    }

    async fn upload(&self, source: Side, mut path: Vec<u8>, user: Option<String>) -> Result<u8, Failure> {
        let (file, name, metadata) = match source {
            Side::Local(local) => {
                let (file, metadata) = open(&local)?;
                (Some(file), local.file_name().map(OsStr::to_owned), Some(metadata))
            }
            _ => (None, None, None),
        };
        match self.stat(&path).await? {
            Ok(Some(stat)) if stat.mode & TYPE == DIRECTORY => match &name {
                Some(name) => {
                    if !path.ends_with(b"/") {
                        path.push(b'/');
                    }
                    path.extend_from_slice(name.as_bytes());
                }
                None => return Err(Failure::usage("standard input needs the name of a file in the pod")),
            },
            Ok(_) => {}
            Err(outcome) => return Ok(conclude(&outcome)),
        }
        let put = Put {
            path: ByteString(path),
            mode: metadata.as_ref().map(|metadata| metadata.mode() & PERMISSIONS),
            mtime_ns: metadata.as_ref().map(|metadata| {
                metadata
                    .mtime()
                    .saturating_mul(1_000_000_000)
                    .saturating_add(metadata.mtime_nsec())
            }),
            user,
            sync: self.sync,
            root: None,
            progress: true,
        };
        let total = metadata.as_ref().map(fs::Metadata::len);
        let progress = Progress::start(&shown(name.as_deref()), total, self.quiet);
        let put = Operation::Put(put);
        let outcome = match file {
            Some(file) if metadata.is_some_and(|metadata| metadata.is_file()) => {
                self.ask(put, &[file.as_fd()], |incoming| progress.set(incoming.taken()))
                    .await?
            }
            Some(pipe) => self.pump(put, Box::new(pipe), &progress).await?,
            None => self.pump(put, Box::new(io::stdin()), &progress).await?,
        };
        drop(progress);
        Ok(conclude(&outcome))
    }

    /// Puts what cannot be passed: it is read here.
    async fn pump(
        &self,
        put: Operation,
        reader: Box<dyn Read + Send>,
        progress: &Progress,
    ) -> Result<Outcome, Failure> {
        let conversation = self.bridge.begin(&self.request(put)).await?;
        let client::Conversation { mut incoming, outgoing } = conversation;
        let mut chunks = read(reader);
        let sending = async {
            while let Some(chunk) = chunks.recv().await {
                let chunk = match chunk {
                    Ok(chunk) => chunk,
                    Err(error) => {
                        return Failure::new(Kind::LocalFile, format!("the local file cannot be read: {error}"));
                    }
                };
                progress.advance(chunk.len());
                if !outgoing.stdin(chunk).await {
                    break;
                }
            }
            outgoing.stdin_eof().await;
            // The result says the rest.
            std::future::pending().await
        };
        let receiving = async {
            loop {
                match incoming.next().await {
                    Message::Result(outcome) | Message::Lost(outcome) => return outcome,
                    // Of a transfer the end alone counts, and that was not reached.
                    Message::Started | Message::Stdout(_) | Message::Stderr(_) => {}
                }
            }
        };
        tokio::select! {
            failure = sending => Err(failure),
            outcome = receiving => Ok(outcome),
        }
    }

    async fn download(&self, path: Vec<u8>, destination: Side) -> Result<u8, Failure> {
        let stat = match self.stat(&path).await? {
            Ok(Some(stat)) => Some(stat),
            // `get` fails with the reason.
            Ok(None) => None,
            Err(outcome) => return Ok(conclude(&outcome)),
        };
        let name = Path::new(OsStr::from_bytes(&path)).file_name().map(OsStr::to_owned);
        let mut sink = match destination {
            Side::Local(local) => Sink::create(&local, name.as_deref())?,
            _ => Sink::Standard,
        };
        let get = Operation::Get(Get {
            path: ByteString(path),
            root: None,
        });
        let progress = Progress::start(&shown(name.as_deref()), stat.map(|stat| stat.size), self.quiet);
        let outcome = match sink.descriptor() {
            Some(file) => self.ask(get, &[file], |_| progress.set(sink.length())).await?,
            None => match self.print(get, &mut sink, &progress).await? {
                Some(outcome) => outcome,
                None => return Ok(exit::BROKEN_PIPE),
            },
        };
        drop(progress);
        if let Outcome::Ok(done) = &outcome {
            let stat = done.stat.flatten().or(stat);
            sink.finish(stat, self.sync)?;
        }
        Ok(conclude(&outcome))
    }

    /// Gets what the bridge cannot write itself; `None` if nobody reads it any more.
    async fn print(&self, get: Operation, sink: &mut Sink, progress: &Progress) -> Result<Option<Outcome>, Failure> {
        let mut conversation = self.bridge.begin(&self.request(get)).await?;
        loop {
            match conversation.incoming.next().await {
                Message::Stdout(data) => {
                    progress.advance(data.len());
                    if let Err(error) = sink.write(&data) {
                        return match error.kind() {
                            io::ErrorKind::BrokenPipe => Ok(None),
                            _ => Err(sink.failed("written", &error)),
                        };
                    }
                }
                Message::Result(outcome) | Message::Lost(outcome) => return Ok(Some(outcome)),
                Message::Started | Message::Stderr(_) => {}
            }
        }
    }
}

fn shown(name: Option<&OsStr>) -> String {
    name.map_or_else(
        || "-".into(),
        |name| podbridge_tree::escape_for_terminal(name.as_bytes()),
    )
}

fn open(path: &Path) -> Result<(File, fs::Metadata), Failure> {
    let failed = |why: String| Failure::new(Kind::LocalFile, format!("{} {why}", path.display()));
    let file = File::open(path).map_err(|error| failed(format!("cannot be read: {error}")))?;
    let metadata = file
        .metadata()
        .map_err(|error| failed(format!("cannot be examined: {error}")))?;
    match metadata.is_dir() {
        true => Err(failed("is a directory; cp copies single files".into())),
        false => Ok((file, metadata)),
    }
}

/// Read ahead on a thread: the source may be a pipe that blocks.
fn read(mut reader: Box<dyn Read + Send>) -> mpsc::Receiver<io::Result<Bytes>> {
    let (queue, chunks) = mpsc::channel(4);
    std::thread::spawn(move || {
        loop {
            let mut buffer = vec![0; CHUNK];
            let chunk = match reader.read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => {
                    buffer.truncate(count);
                    Ok(Bytes::from(buffer))
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let last = chunk.is_err();
            if queue.blocking_send(chunk).is_err() || last {
                return;
            }
        }
    });
    chunks
}
