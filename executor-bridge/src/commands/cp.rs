//! `podbridge cp`: one file to or from a pod, verified, mode and modification time kept. `-` is standard input or output.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, FileTimes, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::progress::Progress;
use super::side::Side;
use super::{bridge, conclude, result};
use crate::cli::{CpOptions, TargetOptions};
use crate::client::{self, Bridge, Message};
use crate::daemon;
use crate::error::{Failure, Kind};
use crate::exit;
use crate::protocol::octets::Octets;
use crate::protocol::request::{Get, Operation, Put, Request, Stat};
use crate::protocol::result::{FileStat, Outcome};

const CHUNK: usize = 128 * 1024;
const TYPE: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;
const PERMISSIONS: u32 = 0o7777;

pub(super) fn run(target: TargetOptions, options: daemon::Options, command: CpOptions) -> Result<u8, Failure> {
    let (source, destination) = (Side::parse(&command.source)?, Side::parse(&command.destination)?);
    let container = target.container.clone();
    let copy = |bridge| Copy {
        bridge,
        container,
        quiet: command.quiet,
    };
    let runtime = client::runtime()?;
    let copied = match (source, destination) {
        (Side::Pod { pod, path }, local @ (Side::Local(_) | Side::Standard)) => {
            let copy = copy(bridge(target, &pod, options)?);
            runtime.block_on(copy.download(path, local))
        }
        (local @ (Side::Local(_) | Side::Standard), Side::Pod { pod, path }) => {
            let copy = copy(bridge(target, &pod, options)?);
            runtime.block_on(copy.upload(local, path, command.user))
        }
        _ => Err(Failure::usage("exactly one of SRC and DST must be POD:PATH")),
    };
    // A thread that reads our stdin may wait for ever.
    runtime.shutdown_background();
    copied
}

struct Copy {
    bridge: Bridge,
    container: Option<String>,
    quiet: bool,
}

impl Copy {
    async fn begin(&self, operation: Operation) -> Result<client::Conversation, Failure> {
        let request = Request {
            container: self.container.clone(),
            operation,
        };
        self.bridge.begin(&request).await
    }

    /// `Err`: an outcome that ends the copy.
    async fn stat(&self, path: &[u8]) -> Result<Result<Option<FileStat>, Outcome>, Failure> {
        let stat = Stat {
            path: Octets(path.to_vec()),
            no_follow: false,
            root: None,
        };
        let outcome = result(self.begin(Operation::Stat(stat)).await?).await;
        Ok(match outcome {
            Outcome::Ok(done) => Ok(done.stat.flatten()),
            other => Err(other),
        })
    }

    async fn upload(&self, source: Side, mut path: Vec<u8>, user: Option<String>) -> Result<u8, Failure> {
        let (reader, name, metadata): (Box<dyn Read + Send>, _, _) = match source {
            Side::Local(local) => {
                let (file, metadata) = open(&local)?;
                (Box::new(file), local.file_name().map(OsStr::to_owned), Some(metadata))
            }
            _ => (Box::new(io::stdin()), None, None),
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
            path: Octets(path),
            mode: metadata.as_ref().map(|metadata| metadata.mode() & PERMISSIONS),
            mtime_ns: metadata
                .as_ref()
                .map(|metadata| metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec()),
            user,
            sync: false,
            root: None,
            progress: false,
        };
        let total = metadata.as_ref().map(fs::Metadata::len);
        let progress = Progress::start(&shown(name.as_deref()), total, self.quiet);
        let client::Conversation { mut incoming, outgoing } = self.begin(Operation::Put(put)).await?;
        let mut chunks = read(reader);
        let sending = async {
            while let Some(chunk) = chunks.recv().await {
                let chunk = chunk.map_err(|error| {
                    Failure::new(Kind::LocalFile, format!("the local file cannot be read: {error}"))
                })?;
                progress.advance(chunk.len());
                if !outgoing.stdin(chunk).await {
                    break;
                }
            }
            outgoing.stdin_eof().await;
            // The result says the rest.
            std::future::pending::<Result<(), Failure>>().await
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
        let outcome = tokio::select! {
            failure = sending => return failure.map(|()| 0),
            outcome = receiving => outcome,
        };
        drop(progress);
        Ok(conclude(&outcome))
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
        let get = Get {
            path: Octets(path),
            root: None,
        };
        let mut incoming = self.begin(Operation::Get(get)).await?.incoming;
        let progress = Progress::start(&shown(name.as_deref()), stat.map(|stat| stat.size), self.quiet);
        let outcome = loop {
            match incoming.next().await {
                Message::Stdout(data) => {
                    progress.advance(data.len());
                    if let Err(error) = sink.write(&data) {
                        return match error.kind() {
                            io::ErrorKind::BrokenPipe => Ok(exit::BROKEN_PIPE),
                            _ => Err(sink.failed("written", &error)),
                        };
                    }
                }
                Message::Result(outcome) | Message::Lost(outcome) => break outcome,
                Message::Started | Message::Stderr(_) => {}
            }
        };
        drop(progress);
        if let Outcome::Ok(done) = &outcome {
            let stat = done.stat.flatten().or(stat);
            sink.finish(stat)?;
        }
        Ok(conclude(&outcome))
    }
}

fn shown(name: Option<&OsStr>) -> String {
    name.map_or_else(|| "-".into(), |name| name.to_string_lossy().into_owned())
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

/// Where a file from the pod goes. A local one appears whole or not at all.
enum Sink {
    Standard,
    File {
        file: File,
        temporary: PathBuf,
        path: PathBuf,
        done: bool,
    },
}

impl Sink {
    fn create(path: &Path, name: Option<&OsStr>) -> Result<Self, Failure> {
        let path = match (fs::metadata(path).is_ok_and(|found| found.is_dir()), name) {
            (true, Some(name)) => path.join(name),
            (true, None) => return Err(Failure::usage("the pod's path has no file name")),
            (false, _) => path.to_owned(),
        };
        // A symbolic link keeps pointing where it points.
        let path = fs::canonicalize(&path).unwrap_or(path);
        if fs::metadata(&path).is_ok_and(|found| !found.is_file()) {
            // A device or pipe cannot be replaced.
            let file = OpenOptions::new().write(true).open(&path);
            let file = file.map_err(|error| local(&path, "opened", &error))?;
            return Ok(Sink::File {
                file,
                temporary: PathBuf::new(),
                path,
                done: true,
            });
        }
        let mut hidden = OsString::from(".");
        hidden.push(path.file_name().unwrap_or_default());
        hidden.push(format!(".podbridge-{}", std::process::id()));
        let temporary = path.with_file_name(hidden);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(|error| local(&path, "written", &error))?;
        Ok(Sink::File {
            file,
            temporary,
            path,
            done: false,
        })
    }

    fn failed(&self, what: &str, error: &io::Error) -> Failure {
        match self {
            Sink::Standard => Failure::new(Kind::LocalFile, format!("standard output cannot be {what}: {error}")),
            Sink::File { path, .. } => local(path, what, error),
        }
    }

    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        match self {
            Sink::Standard => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(data).and_then(|()| stdout.flush())
            }
            Sink::File { file, .. } => file.write_all(data),
        }
    }

    fn finish(&mut self, stat: Option<FileStat>) -> Result<(), Failure> {
        let Sink::File {
            file,
            temporary,
            path,
            done: done @ false,
        } = self
        else {
            return Ok(());
        };
        let attributes = stat.map_or(Ok(()), |stat| {
            file.set_permissions(Permissions::from_mode(stat.mode & PERMISSIONS))?;
            let modified = match u64::try_from(stat.mtime_ns) {
                Ok(after) => SystemTime::UNIX_EPOCH + Duration::from_nanos(after),
                Err(_) => SystemTime::UNIX_EPOCH - Duration::from_nanos(stat.mtime_ns.unsigned_abs()),
            };
            file.set_times(FileTimes::new().set_modified(modified))
        });
        attributes
            .and_then(|()| fs::rename(temporary, &*path))
            .map_err(|error| local(path, "finished", &error))?;
        *done = true;
        Ok(())
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Sink::File {
            temporary, done: false, ..
        } = self
        {
            // Nothing half-done is left; what failed was said.
            let _ = fs::remove_file(temporary);
        }
    }
}

fn local(path: &Path, what: &str, error: &io::Error) -> Failure {
    Failure::new(Kind::LocalFile, format!("{} cannot be {what}: {error}", path.display()))
}
