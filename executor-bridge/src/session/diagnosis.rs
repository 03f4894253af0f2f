//! What it means that a connection broke under an operation: the pod is gone, its agent is, or only the link was. Asks
//! the API and the agent, within seconds, and never guesses success.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::container::{Container, RELINKED};
use super::{Connection, internal};
use crate::error::{Failure, Kind};
use crate::pod::{Fate, Place};
use crate::protocol::result::Outcome;

/// A container's end is known to the API a second or two after its streams break.
const PATIENCE: Duration = Duration::from_secs(8);
/// For one question.
const QUESTION: Duration = Duration::from_secs(5);
const INTERVAL: Duration = Duration::from_millis(250);
/// A new agent answers, or none does, before the API tells why: what the reason is worth waiting for.
const REASON: Duration = Duration::from_secs(3);

/// Whether a failed call can have reached the agent, or was never sent.
pub(super) fn provably_not_sent(status: &tonic::Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<super::connection::NotSent>() {
            return true;
        }
        if let Some(error) = error.downcast_ref::<hyper::Error>() {
            // Cancelled: still in our queue when the connection ended. Closed: never taken into it.
            return error.is_canceled() || error.is_closed();
        }
        source = error.source();
    }
    false
}

/// An agent's own answer has no cause on our side; a broken connection has one.
pub(super) fn is_broken_link(status: &tonic::Status, connection: &Connection) -> bool {
    std::error::Error::source(status).is_some() || !connection.alive()
}

/// Why an operation that may have begun has no result.
pub(super) async fn lost(container: &Container, connection: &Connection, hint: &str) -> Outcome {
    let reason = connection.handle.ended().unwrap_or_else(|| hint.to_owned());
    let pod = container.linker.pod();
    if reason == RELINKED {
        return Outcome::lost(Kind::LinkLost, format!("{pod}: {reason}; the command may still run"));
    }
    let begun = Instant::now();
    let (mut other_agent_since, mut no_agent_since) = (None, None);
    let mut last = internal("nothing was asked");
    while begun.elapsed() < PATIENCE {
        if let Some(place) = &connection.place
            && let Some(outcome) = fate(container, place).await
        {
            return outcome;
        }
        if other_agent_since.is_none() {
            match timeout(QUESTION, container.who_answers(QUESTION)).await {
                Ok(Ok(instance)) if instance == connection.agent.instance => {
                    return Outcome::lost(
                        Kind::LinkLost,
                        format!("the link to {pod} broke ({reason}); the agent lives and the command may still run"),
                    );
                }
                Ok(Ok(_)) => other_agent_since = Some(Instant::now()),
                Ok(Err(failure)) => last = failure,
                Err(_) => last = Failure::new(Kind::Timeout, "the agent does not answer"),
            }
        }
        match last.kind {
            Kind::Agent => no_agent_since = no_agent_since.or_else(|| Some(Instant::now())),
            _ => no_agent_since = None,
        }
        // Without Kubernetes there is nobody else to ask.
        let settled = match connection.place {
            None => other_agent_since.is_some() || last.kind == Kind::Agent,
            Some(_) => other_agent_since
                .or(no_agent_since)
                .is_some_and(|since: Instant| since.elapsed() > REASON),
        };
        if settled {
            break;
        }
        sleep(INTERVAL).await;
    }
    if other_agent_since.is_some() {
        return Outcome::lost(
            Kind::AgentLost,
            format!("the agent in {pod} died and another one answers: its container or the agent was restarted"),
        );
    }
    match last.kind {
        Kind::Agent | Kind::NoShell | Kind::NoSpace => Outcome::lost(
            Kind::AgentLost,
            format!("the agent in {pod} died ({reason}): {}", last.message),
        ),
        _ => Outcome::lost(
            Kind::LinkLost,
            format!(
                "the link to {pod} broke ({reason}), and it cannot be dialled again: {}",
                last.message
            ),
        ),
    }
}

async fn fate(container: &Container, place: &Place) -> Option<Outcome> {
    let fate = match timeout(QUESTION, container.linker.fate(place)).await {
        Ok(Ok(fate)) => fate,
        Ok(Err(_)) | Err(_) => return None,
    };
    match fate {
        Fate::Unchanged => None,
        Fate::PodGone(why) => Some(Outcome::lost(Kind::PodLost, why)),
        Fate::ContainerEnded(why) => Some(Outcome::lost(Kind::AgentLost, why)),
        Fate::OomKilled(message) => Some(Outcome::OomKilled {
            message,
            held_open: false,
        }),
    }
}
