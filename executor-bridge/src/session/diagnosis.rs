//! What it means that a connection broke under an operation: the pod is gone, its agent is, or only the link was. Asks
//! the API and the agent, dials again as long as that may help, and never guesses success.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::Connection;
use super::connection::Lane;
use super::container::Container;
use crate::error::{Failure, Kind};
use crate::pod::{Fate, Place};
use crate::protocol::result::Outcome;
use crate::random;

/// For one question to the API.
const QUESTION: Duration = Duration::from_secs(5);
/// A new agent answers, or none does, a second or two before the API tells why: what the reason is worth waiting for.
const REASON: Duration = Duration::from_secs(3);
/// An API server that has just started refuses everybody for a while.
const DENIED: Duration = Duration::from_secs(30);
/// For operations that can only be begun again.
const FILES: Duration = Duration::from_secs(8);

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

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

/// How long a link is sought again, and how often.
#[derive(Debug)]
pub(super) struct Patience {
    limit: Duration,
    begun: Option<Instant>,
    next: Duration,
}

impl Patience {
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            limit,
            begun: None,
            next: FIRST_PAUSE,
        }
    }

    /// The first try is at once, later ones wait longer and longer; jittered, as many bridges lose the same API server.
    pub(super) async fn pause(&mut self) {
        if self.begun.is_none() {
            self.begun = Some(Instant::now());
            return;
        }
        let [jitter] = random::bytes();
        sleep(self.next.mul_f32(0.5 + f32::from(jitter) / 255.0)).await;
        self.next = (self.next * 2).min(LONGEST_PAUSE);
    }

    pub(super) fn is_over(&self) -> bool {
        self.begun.is_some_and(|begun| begun.elapsed() > self.limit)
    }
}

/// The agent that an operation may have reached, behind a link that broke.
#[derive(Debug, Clone)]
pub(super) struct Home {
    instance: String,
    lane: Lane,
    place: Option<Place>,
    /// Why the link broke, as a phrase.
    reason: String,
}

impl Home {
    pub(super) fn behind(connection: &Connection, hint: &str) -> Self {
        Self {
            instance: connection.agent.instance.clone(),
            lane: connection.lane,
            place: connection.place.clone(),
            reason: connection.handle.ended().unwrap_or_else(|| hint.to_owned()),
        }
    }

    /// As another bridge knew it, which died.
    pub(super) fn of_another_bridge(instance: String, lane: Lane) -> Self {
        Self {
            instance,
            lane,
            place: None,
            reason: "its bridge died".into(),
        }
    }
}

pub(super) enum Recovery {
    /// A connection to the same agent.
    Again(Arc<Connection>),
    Over(Outcome),
}

/// Since when the same has been seen without a break.
#[derive(Default)]
struct Seen {
    other_agent: Option<Instant>,
    no_agent: Option<Instant>,
    denied: Option<Instant>,
}

impl Seen {
    fn failure(&mut self, failure: &Failure) {
        let now = Instant::now();
        let (no_agent, denied) = match failure.kind {
            _ if failure.on_the_way => (false, false),
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

/// Seeks a link to the agent at `home`, until there is one, or it is clear that there will be none.
pub(super) async fn recover(container: &Container, home: &Home, patience: &mut Patience) -> Recovery {
    let pod = container.linker().pod();
    let mut seen = Seen::default();
    let mut last = None;
    loop {
        // Also when every link that there was broke again.
        if patience.is_over() {
            return Recovery::Over(over(pod, &home.reason, seen.other_agent.is_some(), last.as_ref()));
        }
        patience.pause().await;
        if let Some(place) = &home.place
            && let Some(outcome) = fate(container, place).await
        {
            return Recovery::Over(outcome);
        }
        if seen.other_agent.is_none() {
            match container.reconnect(home.lane).await {
                Ok(connection) if connection.agent.instance == home.instance => {
                    return Recovery::Again(connection);
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
        if other && home.place.is_none() || seen.for_long() {
            return Recovery::Over(over(pod, &home.reason, other, last.as_ref()));
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
pub(super) async fn lost(container: &Container, home: &Home) -> Outcome {
    match recover(container, home, &mut Patience::new(FILES)).await {
        Recovery::Over(outcome) => outcome,
        Recovery::Again(_) => {
            let (pod, reason) = (container.linker().pod(), &home.reason);
            Outcome::lost(
                Kind::LinkLost,
                format!("the link to {pod} broke ({reason}); the agent lives, try again"),
            )
        }
    }
}

async fn fate(container: &Container, place: &Place) -> Option<Outcome> {
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
