//! Converts an agent's exit record to an outcome.

use podbridge_proto::limits::MAX_SURVIVORS;
use podbridge_proto::v1::ExitRecord;
use podbridge_proto::v1::exit_record::Cause;
#[cfg(any(test, fuzzing))]
use podbridge_proto::words::MAX_WORDS;
use podbridge_proto::words::clean;

use crate::protocol::result::{EndedExec, Outcome};

/// Returns the outcome; `None` for a record without a cause, which no agent sends.
pub(crate) fn from_exit_record(record: ExitRecord, held_open: bool) -> Option<Outcome> {
    let mut survivors = record.survivors;
    survivors.truncate(MAX_SURVIVORS);
    let killed = |what: &str, reason: String| {
        let reason = clean(&reason);
        let mut message = match reason.as_str() {
            "" => format!("the command was {what}"),
            reason => format!("the command was {what}: {reason}"),
        };
        if !survivors.is_empty() {
            message.push_str("; some of its processes belong to another user and still run");
        }
        EndedExec {
            survivors: survivors.clone(),
            message,
            held_open,
        }
    };
    Some(match record.cause? {
        Cause::Exited(code) => Outcome::Exited {
            code: u8::try_from(code).unwrap_or(u8::MAX),
            held_open,
        },
        Cause::Signaled(signal) => Outcome::Signaled {
            signal: u8::try_from(signal).unwrap_or(u8::MAX),
            held_open,
            message: format!("the command was ended by signal {signal}"),
        },
        Cause::TimedOut(ended) => Outcome::TimedOut(killed("ended by its timeout", ended.reason)),
        Cause::Cancelled(ended) => Outcome::Cancelled(killed("cancelled", ended.reason)),
        Cause::OomKilled(ended) => Outcome::OomKilled {
            message: match clean(&ended.reason).as_str() {
                "" => "the command was ended because the container reached its memory limit; raise the limit".into(),
                reason => format!("the command was ended because the container reached its memory limit: {reason}"),
            },
            held_open,
        },
        Cause::StartFailed(failed) => Outcome::StartFailed {
            code: u8::try_from(failed.exit_code).unwrap_or(126),
            step: clean(&failed.step),
            errno: failed.errno,
            message: clean(&failed.message),
        },
    })
}

/// Checks any bytes for `fuzzing`: what an agent says becomes short, and nothing that a terminal obeys.
#[cfg(any(test, fuzzing))]
pub(crate) fn check(record: &[u8]) {
    use prost::Message as _;
    let Ok(record) = ExitRecord::decode(record) else {
        return;
    };
    let Some(outcome) = from_exit_record(record, false) else {
        return;
    };
    let shown = serde_json::to_value(&outcome).expect("an outcome is JSON");
    let mut words = shown
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(_, value)| value.as_str());
    let plain = |text: &str| text.len() <= 2 * MAX_WORDS && !text.chars().any(char::is_control);
    assert!(words.all(plain), "{shown}");
}
