//! Translates the agent's error answers (gRPC statuses) into outcomes: kind and sentence. Pure functions, called by every operation of
//! `session` and by `upgrade`.

use podbridge_proto::limits::{ERRNO_METADATA, KIND_METADATA};
use podbridge_proto::words;
use rustix::io::Errno;
use tonic::{Code, Status};

use crate::error::{FailedKind, Failure, Kind, chain};
use crate::protocol::result::Outcome;

/// Returns the outcome for a status that the agent sent. The caller has excluded a broken link.
pub(crate) fn outcome(status: &Status) -> Outcome {
    let message = message(status);
    if let Some(kind) = file_kind(status) {
        return Outcome::failed(kind, message);
    }
    match status.code() {
        Code::InvalidArgument | Code::AlreadyExists | Code::OutOfRange => {
            Outcome::failed(FailedKind::BadRequest, message)
        }
        Code::FailedPrecondition | Code::Unimplemented => Outcome::failed(FailedKind::Unsupported, message),
        // The agent has reached a limit and started nothing.
        Code::ResourceExhausted | Code::Unavailable => Outcome::Unreachable(Failure::new(Kind::Agent, message)),
        Code::NotFound => Outcome::failed(FailedKind::NotFound, message),
        Code::PermissionDenied => Outcome::failed(FailedKind::Permission, message),
        _ => Outcome::failed(FailedKind::Io, message),
    }
}

/// Returns the reason of a failed call as a phrase; the text of `Status` itself is for programmers.
pub(crate) fn reason(status: &Status) -> String {
    match std::error::Error::source(status) {
        // The first source is tonic's "transport error", which says nothing.
        Some(source) => words::clean(&chain(source.source().unwrap_or(source))),
        None => message(status),
    }
}

/// Returns the agent's sentence, made fit for terminals and logs.
pub(crate) fn message(status: &Status) -> String {
    words::clean(status.message())
}

fn file_kind(status: &Status) -> Option<FailedKind> {
    let text = |key| status.metadata().get(key).and_then(|value| value.to_str().ok());
    if text(KIND_METADATA) == Some("digest") {
        return Some(FailedKind::Digest);
    }
    let errno = text(ERRNO_METADATA)?.parse().ok()?;
    Some(match Errno::from_raw_os_error(errno) {
        Errno::NOENT => FailedKind::NotFound,
        Errno::ACCESS | Errno::PERM => FailedKind::Permission,
        Errno::ISDIR => FailedKind::IsDirectory,
        Errno::NOTDIR => FailedKind::NotDirectory,
        Errno::NOSPC | Errno::DQUOT | Errno::FBIG => FailedKind::NoSpace,
        Errno::ROFS => FailedKind::ReadOnly,
        _ => FailedKind::Io,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_errno_takes_precedence_over_the_status_code() {
        let mut status = Status::failed_precondition("x is read-only");
        assert!(matches!(
            outcome(&status),
            Outcome::Failed {
                kind: FailedKind::Unsupported,
                ..
            }
        ));
        status.metadata_mut().insert(ERRNO_METADATA, 30.into());
        let expected = Outcome::failed(FailedKind::ReadOnly, "x is read-only");
        assert_eq!(outcome(&status), expected);
    }
}
