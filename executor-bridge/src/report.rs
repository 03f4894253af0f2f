//! Messages for the user, on standard error. The subcommands and the kubectl shim call it.

use std::io::Write as _;

use podbridge_proto::words::visible;

use crate::error::Failure;
use crate::exit;
use crate::protocol::result::Outcome;

/// Prints one sentence, on one line. A pod may have a say in it, and must not command the terminal or forge a line.
pub(crate) fn say(sentence: &str) {
    let line: String = sentence.chars().map(visible).collect();
    let _ = writeln!(std::io::stderr(), "podbridge: {line}");
}

/// Prints a message of kubectl or ssh, which has no prefix.
pub(crate) fn print(sentence: &str) {
    // A failure is ignored: the reader has closed standard error.
    let _ = writeln!(std::io::stderr(), "{sentence}");
}

/// Prints the message of an outcome, if it has one; returns the exit code.
pub(crate) fn conclude(outcome: &Outcome) -> u8 {
    let sentence = match outcome {
        Outcome::Ok(_) | Outcome::Exited { .. } | Outcome::Signaled { .. } => None,
        Outcome::TimedOut(ended) | Outcome::Cancelled(ended) => Some(&ended.message),
        Outcome::OomKilled { message, .. } | Outcome::StartFailed { message, .. } => Some(message),
        Outcome::Failed { message, .. } => Some(message),
        Outcome::Unreachable(failure) | Outcome::Lost(failure) => Some(&failure.message),
    };
    if let Some(sentence) = sentence.filter(|sentence| !sentence.is_empty()) {
        say(sentence);
    }
    exit::code(outcome)
}

/// Prints the message of a failure; returns the exit code.
pub(crate) fn report_failure(failure: &Failure) -> u8 {
    say(&failure.message);
    failure.kind.code()
}
