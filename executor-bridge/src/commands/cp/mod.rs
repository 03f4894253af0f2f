//! `podbridge cp`: copies one file to or from a pod, verifies it, and preserves mode and modification time. `-` is standard input or
//! output.

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
use crate::commands::cp::destination::Destination;
use crate::commands::location::Location;
use crate::commands::progress::Progress;
use crate::config::BridgeSettings;
use crate::error::{Failure, Kind};
use crate::exit;
use crate::protocol::byte_string::ByteString;
use crate::protocol::request::{Get, Operation, Put, Request, Stat};
use crate::protocol::result::{Done, FileStat, Outcome};
use crate::report::{conclude, say};

/// Bytes per read of a local source, at most.
const READ_SIZE: usize = 128 * 1024;
/// Interval between two updates of the progress bar.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// Bridges that may die during one copy; after that the copy fails.
const BRIDGE_DEATHS_MAX: usize = 5;
/// Pause before the next bridge is tried: a dying bridge still accepts connections for a moment.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);
/// The bits of a mode that chmod sets.
const PERMISSION_BITS: u32 = 0o7777;
/// The bits of a mode that hold the file type (S_IFMT).
const FILE_TYPE_BITS: u32 = 0o170_000;
/// File type of a directory (S_IFDIR).
const DIRECTORY_TYPE: u32 = 0o040_000;

pub(super) fn run(mut target: TargetOptions, options: BridgeSettings, command: CpOptions) -> Result<u8, Failure> {
    let (source, destination) = (
        Location::parse(&command.source)?,
        Location::parse(&command.destination)?,
    );
    let container = target.container.clone();
    let copy = |bridge| FileCopy {
        bridge,
        container,
        quiet: command.quiet,
        sync: command.fsync,
    };
    let runtime = client::runtime()?;
    let copied = match (source, destination) {
        (Location::Pod { namespace, pod, path }, local @ (Location::Local(_) | Location::StandardStream)) => {
            target.namespace = namespace.or(target.namespace);
            let copy = copy(bridge_address(target, &pod, options)?);
            runtime.block_on(run_until_interrupted(copy.download(path, local)))
        }
        (local @ (Location::Local(_) | Location::StandardStream), Location::Pod { namespace, pod, path }) => {
            target.namespace = namespace.or(target.namespace);
            let copy = copy(bridge_address(target, &pod, options)?);
            runtime.block_on(run_until_interrupted(copy.upload(local, path, command.user)))
        }
        _ => Err(Failure::usage("exactly one of SRC and DST must be POD:PATH")),
    };
    // Do not wait for the thread that reads standard input: it may block for ever.
    runtime.shutdown_background();
    copied
}

/// Runs a copy until it ends or a signal interrupts it. An interrupted copy is dropped, which removes its temporary file.
async fn run_until_interrupted(copying: impl Future<Output = Result<u8, Failure>>) -> Result<u8, Failure> {
    tokio::select! {
        copied = copying => copied,
        exit_code = client::wait_for_interrupt() => exit_code,
    }
}

/// A copy: the bridge and the options that apply to it.
struct FileCopy {
    bridge: BridgeAddress,
    container: Option<String>,
    quiet: bool,
    sync: bool,
}

impl FileCopy {
    fn request(&self, operation: Operation) -> Request {
        Request {
            container: self.container.clone(),
            operation,
        }
    }

    /// Runs an operation that can be repeated, because the bridge itself reads or writes the files: if a bridge dies, the next one gets
    /// the same request.
    async fn ask(
        &self,
        operation: Operation,
        descriptors: &[BorrowedFd<'_>],
        mut show_progress: impl FnMut(&Incoming),
    ) -> Result<Outcome, Failure> {
        let request = self.request(operation);
        let mut deaths = 0;
        loop {
            let conversation = self.bridge.begin_with(&request, descriptors).await?;
            let client::Conversation {
                mut incoming,
                outgoing: _open,
            } = conversation;
            let mut tick = tokio::time::interval(PROGRESS_INTERVAL);
            let outcome = loop {
                tokio::select! {
                    message = incoming.next() => match message {
                        Message::Result(outcome) => return Ok(outcome),
                        Message::Lost(outcome) => break outcome,
                        Message::Started | Message::Stdout(_) | Message::Stderr(_) => {}
                    },
                    _ = tick.tick() => show_progress(&incoming),
                }
            };
            deaths += 1;
            if deaths == BRIDGE_DEATHS_MAX {
                return Ok(outcome);
            }
            tokio::time::sleep(RECONNECT_PAUSE).await;
        }
    }

    /// Returns the attributes of a file in the pod, `None` if it does not exist. The inner `Err` is an outcome that ends the copy.
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

    /// Copies to the pod.
    async fn upload(&self, source: Location, mut path: Vec<u8>, user: Option<String>) -> Result<u8, Failure> {
        let (file, name, metadata) = match source {
            Location::Local(local) => {
                let (file, metadata) = open_source(&local)?;
                (Some(file), local.file_name().map(OsStr::to_owned), Some(metadata))
            }
            _ => (None, None, None),
        };
        match self.stat(&path).await? {
            Ok(Some(stat)) if stat.mode & FILE_TYPE_BITS == DIRECTORY_TYPE => match &name {
                Some(name) => {
                    if !path.ends_with(b"/") {
                        path.push(b'/');
                    }
                    path.extend_from_slice(name.as_bytes());
                }
                None => {
                    return Err(Failure::usage(
                        "standard input has no name: name a file in the pod, not a directory",
                    ));
                }
            },
            Ok(_) => {}
            Err(outcome) => return Ok(conclude(&outcome)),
        }
        // Another user's file that exists keeps its mode: it may be secret.
        let keeps_mode = user.is_some() && matches!(self.stat(&path).await?, Ok(Some(_)));
        let shown = podbridge_tree::escape_for_terminal(&path);
        let put = Put {
            path: ByteString(path),
            mode: metadata
                .as_ref()
                .filter(|_| !keeps_mode)
                .map(|metadata| metadata.mode() & PERMISSION_BITS),
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
        let progress = Progress::start(&display_name(name.as_deref()), total, self.quiet);
        let put = Operation::Put(put);
        let outcome = match file {
            Some(file) if metadata.is_some_and(|metadata| metadata.is_file()) => {
                self.ask(put, &[file.as_fd()], |incoming| {
                    progress.set_position(incoming.acknowledged_bytes())
                })
                .await?
            }
            Some(pipe) => self.put_stream(put, Box::new(pipe), &progress).await?,
            None => self.put_stream(put, Box::new(io::stdin()), &progress).await?,
        };
        drop(progress);
        if let Outcome::Ok(Done {
            in_place: Some(reason), ..
        }) = &outcome
        {
            let reason = podbridge_tree::escape_for_terminal(reason.as_bytes());
            say_in_place(&format!("{shown} in the pod"), &reason);
        }
        Ok(conclude(&outcome))
    }

    /// Copies a source that cannot be passed to the bridge as a file: this process reads it.
    async fn put_stream(
        &self,
        put: Operation,
        reader: Box<dyn Read + Send>,
        progress: &Progress,
    ) -> Result<Outcome, Failure> {
        let conversation = self.bridge.begin(&self.request(put)).await?;
        let client::Conversation { mut incoming, outgoing } = conversation;
        let mut chunks = read_ahead(reader);
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
            // The bridge's result ends the copy.
            std::future::pending().await
        };
        let receiving = async {
            loop {
                match incoming.next().await {
                    Message::Result(outcome) | Message::Lost(outcome) => return outcome,
                    // Only the result of a transfer matters.
                    Message::Started | Message::Stdout(_) | Message::Stderr(_) => {}
                }
            }
        };
        tokio::select! {
            failure = sending => Err(failure),
            outcome = receiving => Ok(outcome),
        }
    }

    /// Copies from the pod.
    async fn download(&self, path: Vec<u8>, location: Location) -> Result<u8, Failure> {
        let stat = match self.stat(&path).await? {
            Ok(Some(stat)) => Some(stat),
            // `get` will fail with the reason.
            Ok(None) => None,
            Err(outcome) => return Ok(conclude(&outcome)),
        };
        let name = Path::new(OsStr::from_bytes(&path)).file_name().map(OsStr::to_owned);
        let mut destination = match location {
            Location::Local(local) => Destination::create(&local, name.as_deref())?,
            _ => Destination::StandardOutput,
        };
        let get = Operation::Get(Get {
            path: ByteString(path),
            root: None,
        });
        let progress = Progress::start(&display_name(name.as_deref()), stat.map(|stat| stat.size), self.quiet);
        let outcome = match destination.descriptor() {
            Some(file) => {
                self.ask(get, &[file], |_| progress.set_position(destination.length()))
                    .await?
            }
            None => match self.get_stream(get, &mut destination, &progress).await? {
                Some(outcome) => outcome,
                None => return Ok(exit::BROKEN_PIPE),
            },
        };
        drop(progress);
        if let Outcome::Ok(done) = &outcome {
            let stat = done.stat.flatten().or(stat);
            if let Some((path, reason)) = destination.finish(stat, self.sync)? {
                say_in_place(&path.display().to_string(), &reason);
            }
        }
        Ok(conclude(&outcome))
    }

    /// Copies to a destination that the bridge cannot write itself; `None` if the reader of the destination has closed it.
    async fn get_stream(
        &self,
        get: Operation,
        destination: &mut Destination,
        progress: &Progress,
    ) -> Result<Option<Outcome>, Failure> {
        let mut conversation = self.bridge.begin(&self.request(get)).await?;
        loop {
            match conversation.incoming.next().await {
                Message::Stdout(data) => {
                    progress.advance(data.len());
                    if let Err(error) = destination.write(&data) {
                        return match error.kind() {
                            io::ErrorKind::BrokenPipe => Ok(None),
                            _ => Err(destination.failure("written", &error)),
                        };
                    }
                }
                Message::Result(outcome) | Message::Lost(outcome) => return Ok(Some(outcome)),
                Message::Started | Message::Stderr(_) => {}
            }
        }
    }
}

/// Tells the user that the destination is not a new file.
fn say_in_place(destination: &str, reason: &str) {
    say(&format!(
        "{destination} was written in place and keeps its mode, because it cannot be replaced: {reason}"
    ));
}

/// Returns the name for the progress bar.
fn display_name(name: Option<&OsStr>) -> String {
    name.map_or_else(
        || "-".into(),
        |name| podbridge_tree::escape_for_terminal(name.as_bytes()),
    )
}

/// Opens the local source.
fn open_source(path: &Path) -> Result<(File, fs::Metadata), Failure> {
    let failure = |why: String| Failure::new(Kind::LocalFile, format!("{} {why}", path.display()));
    let file = File::open(path).map_err(|error| failure(format!("cannot be read: {error}")))?;
    let metadata = file
        .metadata()
        .map_err(|error| failure(format!("cannot be examined: {error}")))?;
    if metadata.is_dir() {
        return Err(failure(
            "is a directory; cp copies a single file, use podbridge sync for directories".into(),
        ));
    }
    Ok((file, metadata))
}

/// Reads the source on a thread, a few chunks ahead: it may be a pipe that blocks.
fn read_ahead(mut reader: Box<dyn Read + Send>) -> mpsc::Receiver<io::Result<Bytes>> {
    let (queue, chunks) = mpsc::channel(4);
    std::thread::spawn(move || {
        loop {
            let mut buffer = vec![0; READ_SIZE];
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
