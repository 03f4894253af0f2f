//! Refusals of requests that a container's agent is too old for.

use podbridge_proto::limits::FILES_V2;

use crate::connections::Connection;
use crate::error::FailedKind;
use crate::protocol::result::Outcome;

/// The refusal of a root that the agent would leave out: it must never be asked to read elsewhere.
pub(crate) fn refuse_root(connection: &Connection, wanted: bool) -> Option<Outcome> {
    (wanted && !connection.can(FILES_V2)).then(|| unsupported_by_agent(connection, "`root`"))
}

pub(crate) fn unsupported_by_agent(connection: &Connection, what: &str) -> Outcome {
    Outcome::failed(
        FailedKind::Unsupported,
        format!(
            "agent {} does not know {what}; install a newer agent",
            connection.agent.version
        ),
    )
}
