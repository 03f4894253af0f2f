//! Recovery after a connection broke under an operation: the pod is gone, its agent is gone, or only the link broke. Asks the API and the
//! agent, and dials again as long as that may help. Never reports a success without an answer. `keep_alive` and the operations of
//! `session` call it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use crate::backoff::Backoff;
use crate::connections::{Connection, Container, Lane};
use crate::error::{Failure, Kind, Retry};
use crate::pod::{ContainerRef, Fate};
use crate::protocol::result::Outcome;

/// Time limit of one question to the API.
const QUESTION_LIMIT: Duration = Duration::from_secs(5);
/// Wait for the API's reason. A new agent answers, or none answers, one or two seconds before the API knows why.
const REASON_WAIT: Duration = Duration::from_secs(3);
/// Time for which refusals by the API are not believed: a server that has just started refuses all requests for a while.
const DENIED_WAIT: Duration = Duration::from_secs(30);
/// Time limit of the search for a reason after an operation that cannot continue over another link.
const DIAGNOSIS_LIMIT: Duration = Duration::from_secs(8);

/// The agent that an operation may have reached, behind a link that broke.
#[derive(Debug, Clone)]
pub(crate) struct LostAgent {
    instance: String,
    lane: Lane,
    /// `None`: outside Kubernetes, or unknown.
    container: Option<ContainerRef>,
    /// Reason of the break, as a phrase.
    reason: String,
}

impl LostAgent {
    /// Makes the agent of a broken connection; `hint`: the reason, if the link itself knows none.
    pub(crate) fn of_connection(connection: &Connection, hint: &str) -> Self {
        Self {
            instance: connection.agent.instance.clone(),
            lane: connection.lane,
            container: connection.container.clone(),
            reason: connection.handle.end_reason().unwrap_or_else(|| hint.to_owned()),
        }
    }

    /// Makes the agent of a connection that a dead bridge had.
    pub(crate) fn of_another_bridge(instance: String, lane: Lane) -> Self {
        Self {
            instance,
            lane,
            container: None,
            reason: "its bridge died".into(),
        }
    }
}

pub(crate) enum Recovery {
    /// A connection to the same agent.
    Reconnected(Arc<Connection>),
    /// The agent cannot be reached again; the outcome of the operation.
    GivenUp(Outcome),
}

/// Observations that suggest that the agent is gone, each with the time since when it has been made without an exception.
#[derive(Default)]
struct Evidence {
    other_agent: Option<Instant>,
    no_agent: Option<Instant>,
    denied: Option<Instant>,
}

impl Evidence {
    fn note_failure(&mut self, failure: &Failure) {
        let now = Instant::now();
        let (no_agent, denied) = match failure.kind {
            _ if matches!(failure.retry, Retry::LinkCut | Retry::ServerBusy(_)) => (false, false),
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

    /// Tells whether one observation has been made for so long that the agent counts as gone.
    fn is_conclusive(&self) -> bool {
        let longer = |since: Option<Instant>, limit| since.is_some_and(|since| since.elapsed() > limit);
        longer(self.other_agent, REASON_WAIT) || longer(self.no_agent, REASON_WAIT) || longer(self.denied, DENIED_WAIT)
    }
}

/// Dials until a connection to the same agent is open, or until it is clear that there will be none.
pub(crate) async fn recover(container: &Container, lost_agent: &LostAgent, backoff: &mut Backoff) -> Recovery {
    let pod = container.linker().pod();
    let mut evidence = Evidence::default();
    let mut last = None;
    loop {
        // Checked before each attempt: also links that open and break again use up the limit.
        if backoff.is_over() {
            return Recovery::GivenUp(given_up_outcome(
                pod,
                &lost_agent.reason,
                evidence.other_agent.is_some(),
                last.as_ref(),
            ));
        }
        tokio::select! {
            () = backoff.pause() => {}
            // Another operation's dial succeeded.
            () = container.wait_for_dial() => {}
        }
        let mut pod_ending = None;
        if let Some(reference) = &lost_agent.container {
            match fate(container, reference).await {
                Some(Verdict::Outcome(outcome)) => return Recovery::GivenUp(outcome),
                Some(Verdict::PodEnding(why)) => pod_ending = Some(why),
                None => {}
            }
        }
        if evidence.other_agent.is_none() {
            match container.reconnect(lost_agent.lane).await {
                Ok(connection) if connection.agent.instance == lost_agent.instance => {
                    return Recovery::Reconnected(connection);
                }
                Ok(_) => evidence.other_agent = Some(Instant::now()),
                Err(failure) => {
                    evidence.note_failure(&failure);
                    // The container ended before the API knew.
                    if let Some(why) = pod_ending.filter(|_| evidence.no_agent.is_some()) {
                        return Recovery::GivenUp(Outcome::lost(Kind::PodLost, why));
                    }
                    last = Some(failure);
                }
            }
        }
        // Outside Kubernetes no API can give a reason: do not wait for one.
        let other = evidence.other_agent.is_some();
        if other && lost_agent.container.is_none() || evidence.is_conclusive() {
            return Recovery::GivenUp(given_up_outcome(pod, &lost_agent.reason, other, last.as_ref()));
        }
    }
}

fn given_up_outcome(pod: &str, reason: &str, other_agent: bool, last: Option<&Failure>) -> Outcome {
    if other_agent {
        return Outcome::lost(
            Kind::AgentLost,
            format!("the agent in {pod} died and another one answers: the container or the agent was restarted"),
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
            format!("the link to {pod} broke ({reason}), and no new link could be opened: {message}"),
        ),
    }
}

/// Returns the outcome of an operation that cannot continue over another link: the reason of the break.
pub(crate) async fn diagnose(container: &Container, lost_agent: &LostAgent) -> Outcome {
    match recover(container, lost_agent, &mut Backoff::new(DIAGNOSIS_LIMIT)).await {
        Recovery::GivenUp(outcome) => outcome,
        Recovery::Reconnected(_) => {
            let (pod, reason) = (container.linker().pod(), &lost_agent.reason);
            Outcome::lost(
                Kind::LinkLost,
                format!("the link to {pod} broke ({reason}); the agent is still alive, try again"),
            )
        }
    }
}

/// What the API says of a container.
enum Verdict {
    /// The outcome of its operations.
    Outcome(Outcome),
    /// The container ends soon; until then its agent can be reached.
    PodEnding(String),
}

/// Asks the API what became of the container; `None`: nothing that it knows, or it does not answer.
async fn fate(container: &Container, reference: &ContainerRef) -> Option<Verdict> {
    let fate = match timeout(QUESTION_LIMIT, container.linker().fate(container.pod(), reference)).await {
        Ok(Ok(fate)) => fate,
        Ok(Err(_)) | Err(_) => return None,
    };
    let outcome = match fate {
        Fate::PodEnding(why) => return Some(Verdict::PodEnding(why)),
        Fate::Unchanged => None,
        Fate::PodGone(why) => Some(Outcome::lost(Kind::PodLost, why)),
        Fate::ContainerEnded(why) => Some(Outcome::lost(Kind::AgentLost, why)),
        Fate::OomKilled(message) => Some(Outcome::OomKilled {
            message,
            held_open: false,
        }),
    };
    outcome.map(Verdict::Outcome)
}
