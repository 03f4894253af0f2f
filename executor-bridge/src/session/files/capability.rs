//! Refusals of requests that a container's agent is too old for.

use podbridge_proto::limits::FILES_V2;

use crate::connections::Connection;
use crate::error::FailedKind;
use crate::protocol::result::Outcome;

/// Returns a refusal if a root is wanted and the agent does not know roots. Such an agent would ignore the root and
/// read outside of it.
pub(crate) fn refuse_root(connection: &Connection, wanted: bool) -> Option<Outcome> {
    (wanted && !connection.can(FILES_V2)).then(|| unsupported_by_agent(connection, "`root`"))
}

/// Makes the refusal. `what` names the option that the agent does not know.
pub(crate) fn unsupported_by_agent(connection: &Connection, what: &str) -> Outcome {
    Outcome::failed(
        FailedKind::Unsupported,
        format!(
            "agent {} does not know {what}; install a newer agent",
            connection.agent.version
        ),
    )
}
