//! Converts an agent's exit record to an outcome.

use podbridge_proto::limits::MAX_SURVIVORS;
use podbridge_proto::v1::ExitRecord;
use podbridge_proto::v1::exit_record::Cause;
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
