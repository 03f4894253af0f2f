//! What it means that a connection broke under an operation: the pod is gone, its agent is, or only the link was. Asks
//! the API and the agent, dials again as long as that may help, and never guesses success.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::backoff::Backoff;
use crate::connections::{Connection, Container, Lane};
use crate::error::{Failure, Kind, Retry};
use crate::pod::{ContainerRef, Fate};
use crate::protocol::result::Outcome;

/// For one question to the API.
const QUESTION: Duration = Duration::from_secs(5);
/// A new agent answers, or none does, a second or two before the API tells why: what the reason is worth waiting for.
const REASON: Duration = Duration::from_secs(3);
/// An API server that has just started refuses everybody for a while.
const DENIED: Duration = Duration::from_secs(30);
/// For operations that can only be begun again.
const FILES: Duration = Duration::from_secs(8);

/// The agent that an operation may have reached, behind a link that broke.
#[derive(Debug, Clone)]
pub(crate) struct LostAgent {
    instance: String,
    lane: Lane,
    place: Option<ContainerRef>,
    /// Why the link broke, as a phrase.
    reason: String,
}

impl LostAgent {
    pub(crate) fn of_connection(connection: &Connection, hint: &str) -> Self {
        Self {
            instance: connection.agent.instance.clone(),
            lane: connection.lane,
            place: connection.place.clone(),
            reason: connection.handle.ended().unwrap_or_else(|| hint.to_owned()),
        }
    }

    /// As another bridge knew it, which died.
    pub(crate) fn of_another_bridge(instance: String, lane: Lane) -> Self {
        Self {
            instance,
            lane,
            place: None,
            reason: "its bridge died".into(),
        }
    }
}

pub(crate) enum Recovery {
    /// A connection to the same agent.
    Reconnected(Arc<Connection>),
    GivenUp(Outcome),
}

/// Since when the same has been seen without a break.
#[derive(Default)]
struct Evidence {
    other_agent: Option<Instant>,
    no_agent: Option<Instant>,
    denied: Option<Instant>,
}

impl Evidence {
    fn failure(&mut self, failure: &Failure) {
        let now = Instant::now();
        let (no_agent, denied) = match failure.kind {
            _ if failure.retry == Retry::LinkCut => (false, false),
            Kind::Agent
            | Kind::NoShell
            | Kind::NoSpace
            | Kind::PodNotFound
            | Kind::ContainerNotFound
            | Kind::PodNotRunning => (true, false),
            Kind::ApiUnreachable | Kind::Timeout | Kind::Bridge => (false, false),
            _ => (false, true),
        };
        self.no_agent = no_agent.then(|| self.no_agent.unwrap_or(now));
        self.denied = denied.then(|| self.denied.unwrap_or(now));
    }

    fn for_long(&self) -> bool {
        let longer = |since: Option<Instant>, limit| since.is_some_and(|since| since.elapsed() > limit);
        longer(self.other_agent, REASON) || longer(self.no_agent, REASON) || longer(self.denied, DENIED)
    }
}

/// Seeks a link to the agent at `lost_agent`, until there is one, or it is clear that there will be none.
pub(crate) async fn recover(container: &Container, lost_agent: &LostAgent, backoff: &mut Backoff) -> Recovery {
    let pod = container.linker().pod();
    let mut seen = Evidence::default();
    let mut last = None;
    loop {
        // Also when every link that there was broke again.
        if backoff.is_over() {
            return Recovery::GivenUp(over(pod, &lost_agent.reason, seen.other_agent.is_some(), last.as_ref()));
        }
        backoff.pause().await;
        if let Some(place) = &lost_agent.place
            && let Some(outcome) = fate(container, place).await
        {
            return Recovery::GivenUp(outcome);
        }
        if seen.other_agent.is_none() {
            match container.reconnect(lost_agent.lane).await {
                Ok(connection) if connection.agent.instance == lost_agent.instance => {
                    return Recovery::Reconnected(connection);
                }
                Ok(_) => seen.other_agent = Some(Instant::now()),
                Err(failure) => {
                    seen.failure(&failure);
                    last = Some(failure);
                }
            }
        }
        // Without Kubernetes there is nobody who could tell why.
        let other = seen.other_agent.is_some();
        if other && lost_agent.place.is_none() || seen.for_long() {
            return Recovery::GivenUp(over(pod, &lost_agent.reason, other, last.as_ref()));
        }
    }
}

fn over(pod: &str, reason: &str, other_agent: bool, last: Option<&Failure>) -> Outcome {
    if other_agent {
        return Outcome::lost(
            Kind::AgentLost,
            format!("the agent in {pod} died and another one answers: its container or the agent was restarted"),
        );
    }
    let (kind, message) = last.map_or((Kind::Timeout, "new links broke as well"), |last| {
        (last.kind, &last.message)
    });
    match kind {
        Kind::PodNotFound => Outcome::lost(Kind::PodLost, message),
        Kind::Agent | Kind::NoShell | Kind::NoSpace | Kind::ContainerNotFound | Kind::PodNotRunning => Outcome::lost(
            Kind::AgentLost,
            format!("the agent in {pod} died ({reason}): {message}"),
        ),
        _ => Outcome::lost(
            Kind::LinkLost,
            format!("the link to {pod} broke ({reason}), and it cannot be dialled again: {message}"),
        ),
    }
}

/// What became of an operation that cannot go on over another link.
pub(crate) async fn lost(container: &Container, lost_agent: &LostAgent) -> Outcome {
    match recover(container, lost_agent, &mut Backoff::new(FILES)).await {
        Recovery::GivenUp(outcome) => outcome,
        Recovery::Reconnected(_) => {
            let (pod, reason) = (container.linker().pod(), &lost_agent.reason);
            Outcome::lost(
                Kind::LinkLost,
                format!("the link to {pod} broke ({reason}); the agent lives, try again"),
            )
        }
    }
}

async fn fate(container: &Container, place: &ContainerRef) -> Option<Outcome> {
    let fate = match timeout(QUESTION, container.linker().fate(place)).await {
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
