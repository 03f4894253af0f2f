//! Converts wire messages to domain values and back, and domain errors to statuses. Checks everything that a client sends: a domain
//! gets valid values only. Pure functions; the services of this module call them.

use std::ffi::{CString, OsStr};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use podbridge_proto::digest::ContentHasher;
use podbridge_proto::limits::{CAPABILITIES, ERRNO_METADATA, KIND_METADATA, MAX_INLINE_STDIN};
use podbridge_proto::{v1 as wire, words};
use rustix::io::Errno;
use tonic::{Code, Status};

use crate::exec::{
    self, Cause, Channel, Command, Digest, Event, ExecId, ExitRecord, Lengths, Offsets, OnDisconnect, Overflow, Scope,
    Size, StdinMode,
};
use crate::files::{self, Attributes, Location, Target, Trailer, Transfer};
use crate::logs;

/// Time between SIGTERM and SIGKILL if the request has none.
const DEFAULT_GRACE: Duration = Duration::from_secs(2);
/// Time that an exec outlives its bridge if the request has none.
const DEFAULT_LEASE: Duration = Duration::from_secs(15 * 60);

/// Checks any bytes for `fuzzing`: the first one chooses a message, the others are the message.
#[cfg(any(test, fuzzing))]
pub(crate) fn check_messages(data: &[u8]) {
    use prost::Message as _;
    let Some((kind, message)) = data.split_first() else {
        return;
    };
    match kind % 5 {
        0 => {
            if let Ok(Ok(command)) = wire::StartRequest::decode(message).map(command) {
                assert!(!command.argv.is_empty());
            }
        }
        1 => drop(wire::PutHeader::decode(message).map(transfer)),
        2 => drop(wire::PutRequest::decode(message).map(transfer_part)),
        3 => {
            let request = wire::GetRequest::decode(message).unwrap_or_default();
            if let Ok(location) = location(&request.path, request.root.as_ref()) {
                assert!(location.root.is_none_or(|root| root.is_absolute()));
            }
        }
        _ => drop(wire::LogPosition::decode(message).map(log_position)),
    }
}

/// Returns a status with this text, which may repeat names of the request: a status is a header of HTTP/2, and a peer that gets too long a
/// header ends the connection.
pub(super) fn refusal(code: Code, text: &str) -> Status {
    Status::new(code, words::sentence(text))
}

/// Refuses a request that requires a capability that this agent does not have.
pub(super) fn require(names: &[String]) -> Result<(), Status> {
    match names.iter().find(|name| !CAPABILITIES.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(refusal(
            Code::FailedPrecondition,
            &format!(
                "agent {} has no capability {name:?}; install a newer agent",
                env!("CARGO_PKG_VERSION")
            ),
        )),
    }
}

pub(super) fn exec_id(bytes: &[u8]) -> Result<ExecId, Status> {
    bytes
        .try_into()
        .map(ExecId)
        .map_err(|_| Status::invalid_argument("exec_id must have 16 bytes"))
}

/// Checks a request to start a command; absent values get their defaults.
pub(super) fn command(request: wire::StartRequest) -> Result<Command, Status> {
    let invalid = |text: &str| Status::invalid_argument(text.to_owned());
    require(&request.requires)?;
    let id = exec_id(&request.exec_id)?;
    let digest = request.digest[..]
        .try_into()
        .map(Digest)
        .map_err(|_| invalid("digest must have 32 bytes"))?;
    let argv = request.argv.into_iter().map(|arg| CString::new(Vec::from(arg)));
    let argv = argv
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| invalid("argv contains a NUL byte"))?;
    if argv.is_empty() || argv[0].is_empty() {
        return Err(invalid("argv is empty, or its first word is"));
    }
    let env = request.env.into_iter().map(|variable| {
        let bad = variable.name.is_empty()
            || variable.name.contains(&b'=')
            || [&variable.name, &variable.value].iter().any(|bytes| bytes.contains(&0));
        if bad {
            Err(invalid(
                "an environment variable has no name, '=' in its name, or a NUL byte",
            ))
        } else {
            Ok((Vec::from(variable.name), Vec::from(variable.value)))
        }
    });
    let cwd = CString::new(Vec::from(request.cwd)).map_err(|_| invalid("cwd contains a NUL byte"))?;
    let stdin = match wire::StdinMode::try_from(request.stdin_mode) {
        Ok(wire::StdinMode::Unspecified) => StdinMode::Null,
        Ok(wire::StdinMode::Stream) => StdinMode::Stream,
        Ok(wire::StdinMode::Inline) if request.stdin.len() <= MAX_INLINE_STDIN => StdinMode::Inline(request.stdin),
        Ok(wire::StdinMode::Inline) => return Err(invalid("stdin is too long for a Start message")),
        Err(_) => return Err(invalid("unknown stdin_mode")),
    };
    let on_disconnect = match wire::OnDisconnect::try_from(request.on_disconnect) {
        Ok(wire::OnDisconnect::Unspecified) => OnDisconnect::Lease,
        Ok(wire::OnDisconnect::Cancel) => OnDisconnect::Cancel,
        Err(_) => return Err(invalid("unknown on_disconnect")),
    };
    let overflow = match wire::Overflow::try_from(request.overflow) {
        Ok(wire::Overflow::Unspecified) => Overflow::Block,
        Ok(wire::Overflow::DropOldest) => Overflow::DropOldest,
        Err(_) => return Err(invalid("unknown overflow")),
    };
    let or_default = |milliseconds: u64, default| match milliseconds {
        0 => default,
        milliseconds => Duration::from_millis(milliseconds),
    };
    Ok(Command {
        id,
        digest,
        argv,
        agent_program: request.agent_program,
        env: env.collect::<Result<_, _>>()?,
        cwd: (!cwd.is_empty()).then_some(cwd),
        user: (!request.user.is_empty()).then_some(request.user),
        pty: request.pty.map(size),
        stdin,
        timeout: (request.timeout_ms != 0).then(|| Duration::from_millis(request.timeout_ms)),
        kill_grace: or_default(request.kill_grace_ms, DEFAULT_GRACE),
        on_disconnect,
        lease: or_default(request.lease_ms, DEFAULT_LEASE),
        overflow,
        session: request.session.into(),
        cold_python: request.cold_python,
    })
}

/// Returns the terminal size; 24 rows and 80 columns for absent values.
pub(super) fn size(pty: wire::Pty) -> Size {
    let characters = |wanted: u32, default| match u16::try_from(wanted).unwrap_or(u16::MAX) {
        0 => default,
        count => count,
    };
    Size {
        rows: characters(pty.rows, 24),
        cols: characters(pty.cols, 80),
    }
}

pub(super) fn offsets(stdout: u64, stderr: u64) -> Offsets {
    Offsets { stdout, stderr }
}

pub(super) fn scope(scope: i32) -> Result<Scope, Status> {
    match wire::SignalScope::try_from(scope) {
        Ok(wire::SignalScope::Unspecified) => Ok(Scope::Group),
        Ok(wire::SignalScope::Leader) => Ok(Scope::Leader),
        Ok(wire::SignalScope::Tree) => Ok(Scope::Tree),
        Err(_) => Err(Status::invalid_argument("unknown signal scope")),
    }
}

pub(super) fn event(event: Event) -> wire::ExecEvent {
    use wire::exec_event::Event as Wire;
    let event = match event {
        Event::Started { pid, python } => Wire::Started(wire::Started { pid, python }),
        Event::Output { channel, offset, data } => Wire::Output(wire::Output {
            stream: stream(channel),
            offset,
            data,
        }),
        Event::Gap {
            channel,
            offset,
            length,
        } => Wire::Gap(wire::Gap {
            stream: stream(channel),
            offset,
            length,
        }),
        Event::Exited(record) => Wire::Exited(exit_record(record)),
        Event::Closed(Lengths {
            stdout,
            stderr,
            held_open,
            file_error,
        }) => Wire::Closed(wire::Closed {
            stdout_length: stdout,
            stderr_length: stderr,
            held_open,
            spool_error: words::sentence(&file_error.unwrap_or_default()),
        }),
    };
    wire::ExecEvent { event: Some(event) }
}

fn stream(channel: Channel) -> i32 {
    match channel {
        Channel::Stdout => wire::Stream::Stdout as i32,
        Channel::Stderr => wire::Stream::Stderr as i32,
    }
}

pub(super) fn exit_record(record: ExitRecord) -> wire::ExitRecord {
    use wire::exit_record::Cause as Wire;
    let ended = |reason: String| wire::Ended {
        reason: words::sentence(&reason),
    };
    let cause = match record.cause {
        Cause::Exited(code) => Wire::Exited(code.into()),
        Cause::Signaled(signal) => Wire::Signaled(signal.into()),
        Cause::TimedOut(reason) => Wire::TimedOut(ended(reason)),
        Cause::Cancelled(reason) => Wire::Cancelled(ended(reason)),
        Cause::OomKilled(reason) => Wire::OomKilled(ended(reason)),
        Cause::StartFailed(failure) => Wire::StartFailed(wire::StartFailed {
            step: failure.step.into(),
            errno: failure.errno,
            // It repeats the name of the program, which may be longer than a message.
            message: words::sentence(&failure.message),
            exit_code: failure.exit_code.into(),
        }),
    };
    wire::ExitRecord {
        cause: Some(cause),
        survivors: record.survivors,
    }
}

/// Checks the path of a file, and the root that it must stay below.
pub(super) fn location(path: &Bytes, root: Option<&Bytes>) -> Result<Location, Status> {
    let checked = |bytes: &Bytes| {
        if bytes.is_empty() || bytes.contains(&0) {
            Err(Status::invalid_argument("the path is empty or contains a NUL byte"))
        } else {
            Ok(PathBuf::from(OsStr::from_bytes(bytes)))
        }
    };
    let root = root.map(checked).transpose()?;
    if root.as_ref().is_some_and(|root| !root.is_absolute()) {
        return Err(Status::invalid_argument("the root must be an absolute path"));
    }
    let path = checked(path)?;
    Ok(Location { root, path })
}

/// Returns the file that a put writes, and the empty hasher of its digest.
pub(super) fn new_file(header: wire::PutHeader) -> Result<(Target, ContentHasher), Status> {
    let hasher = ContentHasher::new(header.digest());
    let target = Target {
        location: location(&header.path, header.root.as_ref())?,
        mode: header.mode,
        mtime_ns: header.mtime_ns,
        user: (!header.user.is_empty()).then_some(header.user),
        sync: header.sync,
    };
    Ok((target, hasher))
}

/// Returns the transfer that a Write begins.
pub(super) fn transfer(header: wire::PutHeader) -> Result<Transfer, Status> {
    let id = header.transfer_id[..]
        .try_into()
        .map_err(|_| Status::invalid_argument("transfer_id must have 16 bytes"))?;
    let (target, hasher) = new_file(header)?;
    Ok(Transfer { id, target, hasher })
}

/// Returns the part of a transfer that a message after the header carries.
pub(super) fn transfer_part(message: wire::PutRequest) -> Result<files::Part, files::Error> {
    use wire::put_request::Part as Wire;
    match message.part {
        Some(Wire::Data(data)) => Ok(files::Part::Data(data)),
        Some(Wire::Hole(count)) => Ok(files::Part::Hole(count)),
        Some(Wire::Trailer(last)) => Ok(files::Part::Trailer(trailer(&last))),
        Some(Wire::Abandon(_)) => Ok(files::Part::Abandon),
        Some(Wire::Header(_)) | None => Err(files::Error::NotOneHeader),
    }
}

/// Returns the trailer. A digest of a wrong length becomes zeros: it differs from the content's digest, so that the put fails.
pub(super) fn trailer(trailer: &wire::PutTrailer) -> Trailer {
    Trailer {
        length: trailer.length,
        digest: trailer.digest[..].try_into().unwrap_or_default(),
    }
}

/// Returns the reason why a file was written in place; empty if it was replaced.
pub(super) fn in_place(refused: Option<Errno>) -> String {
    refused.map_or_else(String::new, |errno| podbridge_files::reason(&errno.into()))
}

pub(super) fn write_progress(progress: files::Progress) -> wire::WriteProgress {
    match progress {
        files::Progress::Written(length) => wire::WriteProgress { length, done: None },
        files::Progress::Completed(receipt) => wire::WriteProgress {
            length: receipt.length,
            done: Some(wire::PutResponse {
                length: receipt.length,
                digest: receipt.digest.to_vec().into(),
                in_place: in_place(receipt.in_place),
            }),
        },
    }
}

pub(super) fn attributes(attributes: Attributes) -> wire::FileStat {
    let Attributes {
        mode,
        size,
        uid,
        gid,
        mtime_ns,
        version,
    } = attributes;
    wire::FileStat {
        mode,
        size,
        uid,
        gid,
        mtime_ns,
        version: version.map(u64::to_be_bytes).concat().into(),
    }
}

/// Returns a domain error as a status: the code is for programs, the text for people.
pub(super) fn exec_status(error: exec::Error) -> Status {
    use exec::Error as E;
    let text = match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    let code = match error {
        E::Conflict(_) => Code::AlreadyExists,
        E::Unknown(_) => Code::NotFound,
        E::Fenced { .. } | E::NotRunning(_) | E::StillRunning(_) | E::NoTerminal(_) | E::NoStdin(_) => {
            Code::FailedPrecondition
        }
        E::StdinGap { .. } => Code::OutOfRange,
        E::Evicted(_) => Code::Aborted,
        E::Full(_) => Code::ResourceExhausted,
        E::Signal { .. } | E::Resize { .. } => Code::PermissionDenied,
    };
    refusal(code, &text)
}

pub(super) fn files_status(error: files::Error) -> Status {
    use files::Error as E;
    let text = error.to_string();
    let mut status = match &error {
        E::System(_) | E::Foreign { .. } => system_status(&text, error.errno()),
        E::UnknownUser(_) => refusal(Code::FailedPrecondition, &text),
        E::NotBelowRoot(_) | E::FalseLength(_) | E::NoTrailer | E::NotOneHeader | E::OtherTarget => {
            refusal(Code::InvalidArgument, &text)
        }
        // The cause is the file, not the request.
        E::NotRegular(_) | E::SymbolicLink(_) | E::Changed(_) => refusal(Code::Unknown, &text),
        E::Length { .. } | E::Digest(_) => refusal(Code::DataLoss, &text),
        E::Panicked => refusal(Code::Internal, &text),
    };
    if matches!(error, E::Length { .. } | E::Digest(_)) {
        status
            .metadata_mut()
            .insert(KIND_METADATA, tonic::metadata::MetadataValue::from_static("digest"));
    }
    status
}

/// Returns the status for a failed system call; its metadata has the errno.
fn system_status(text: &str, errno: Option<i32>) -> Status {
    let code = match errno {
        Some(libc::ENOENT) => Code::NotFound,
        Some(libc::EACCES | libc::EPERM) => Code::PermissionDenied,
        Some(libc::ENOSPC | libc::EDQUOT) => Code::ResourceExhausted,
        _ => Code::FailedPrecondition,
    };
    let mut status = refusal(code, text);
    if let Some(errno) = errno {
        status.metadata_mut().insert(ERRNO_METADATA, errno.into());
    }
    status
}

pub(super) fn log_position(position: wire::LogPosition) -> logs::Position {
    logs::Position {
        file: logs::FileId(position.file),
        offset: position.offset,
    }
}

pub(super) fn follow_event(event: logs::Event) -> wire::FollowEvent {
    use wire::follow_event::Event as E;
    let event = match event {
        logs::Event::Absent => E::Absent(wire::LogAbsent {}),
        logs::Event::Begins(position) => E::Begins(wire::LogPosition {
            file: position.file.0,
            offset: position.offset,
        }),
        logs::Event::Data(data) => E::Data(data),
    };
    wire::FollowEvent { event: Some(event) }
}

pub(super) fn logs_status(error: logs::Error) -> Status {
    let text = error.to_string();
    match error {
        logs::Error::System(_) => system_status(&text, error.errno()),
        logs::Error::TooMany { .. } => refusal(Code::ResourceExhausted, &text),
        logs::Error::Panicked => refusal(Code::Internal, &text),
    }
}
