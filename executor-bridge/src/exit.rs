//! Exit codes: the code of every outcome (docs/client-protocol.md), and codes of other programs that podbridge imitates. The subcommands
//! and the kubectl shim use it.

use crate::error::{FailedKind, Kind};
use crate::protocol::result::Outcome;

/// Exit code when the reader of standard output has closed it: 128 + SIGPIPE, as in a shell.
pub(crate) const BROKEN_PIPE: u8 = 128 + 13;

/// Exit code of kubectl for every error of its own.
pub(crate) const KUBECTL_FAILED: u8 = 1;

/// Returns the exit code of an outcome.
pub(crate) fn code(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::Ok(_) => 0,
        Outcome::Exited { code, .. } | Outcome::StartFailed { code, .. } => *code,
        Outcome::Signaled { signal, .. } => 128u8.saturating_add(*signal),
        Outcome::TimedOut(_) => 124,
        Outcome::Cancelled(_) => 125,
        Outcome::OomKilled { .. } => 137,
        Outcome::Failed { kind, .. } => kind_of_failed(*kind).code(),
        Outcome::Unreachable(failure) | Outcome::Lost(failure) => failure.kind.code(),
    }
}

/// Returns the kind whose exit code a failed operation gets: the local file, the request, or else the file in the pod is the cause.
fn kind_of_failed(kind: FailedKind) -> Kind {
    match kind {
        FailedKind::LocalFile => Kind::LocalFile,
        FailedKind::BadRequest | FailedKind::Unsupported => Kind::Usage,
        FailedKind::NotFound
        | FailedKind::Permission
        | FailedKind::IsDirectory
        | FailedKind::NotDirectory
        | FailedKind::NoSpace
        | FailedKind::ReadOnly
        | FailedKind::Digest
        | FailedKind::Io => Kind::RemoteFile,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Failure;
    use crate::protocol::result::EndedExec;

    #[test]
    fn every_outcome_has_its_documented_exit_code() {
        let held_open = false;
        let message = String::new;
        let ended = EndedExec::default;
        let cases = [
            (Outcome::done(), 0),
            (Outcome::Exited { code: 220, held_open }, 220),
            (
                Outcome::Signaled {
                    signal: 15,
                    held_open,
                    message: message(),
                },
                143,
            ),
            (Outcome::TimedOut(ended()), 124),
            (Outcome::Cancelled(ended()), 125),
            (
                Outcome::OomKilled {
                    message: message(),
                    held_open,
                },
                137,
            ),
            (
                Outcome::StartFailed {
                    code: 127,
                    step: "exec".into(),
                    errno: 2,
                    message: message(),
                },
                127,
            ),
            (Outcome::failed(FailedKind::NotFound, ""), 236),
            (Outcome::failed(FailedKind::LocalFile, ""), 222),
            (Outcome::failed(FailedKind::BadRequest, ""), 221),
            (Outcome::Unreachable(Failure::new(Kind::PodNotRunning, "")), 230),
            (Outcome::lost(Kind::BridgeLost, ""), 243),
        ];
        for (outcome, expected) in cases {
            assert_eq!(code(&outcome), expected, "{}", outcome.name());
        }
        for kind in FailedKind::ALL {
            assert!((220..240).contains(&code(&Outcome::failed(*kind, ""))));
        }
    }
}
