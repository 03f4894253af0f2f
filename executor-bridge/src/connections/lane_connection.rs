//! The connection of one lane of a container: dialled when first needed and again when dead. Callers that come while a dial is under
//! way share it and its answer. A connection on a faster link replaces it as soon as there is one. `container` owns one for each lane.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, ready};
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};

use crate::connections::direct_route::UPGRADE_WAIT;
use crate::connections::endpoint::Endpoint;
use crate::connections::{Connection, Lane};
use crate::error::Failure;
use crate::link::Start;
use crate::protocol::result::LinkStatus;
use crate::protocol::target::LinkChoice;
use crate::sys;

/// A connection for bulk that nobody used for so long is closed: it costs a process in the pod. Between one and two of these.
const UNUSED: Duration = Duration::from_secs(60);

type Opening = Shared<BoxFuture<'static, Result<Arc<Connection>, Failure>>>;

#[derive(Debug, Clone)]
struct Dial {
    /// Of its line's dials.
    number: u64,
    start: Start,
    opening: Opening,
}

#[derive(Debug, Default)]
struct DialState {
    dial: Option<Dial>,
    dials: u64,
    /// By the dial's connection; calls may still be on it.
    superseded: Weak<Connection>,
}

#[derive(Debug)]
pub(crate) struct LaneConnection {
    lane: Lane,
    endpoint: Arc<Endpoint>,
    slot: Arc<Mutex<DialState>>,
}

impl LaneConnection {
    pub(crate) fn new(lane: Lane, endpoint: Arc<Endpoint>) -> Self {
        Self {
            lane,
            endpoint,
            slot: Arc::default(),
        }
    }

    pub(crate) async fn dialed(&self, start: Start) -> Result<Arc<Connection>, Failure> {
        let opening = {
            let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
            let usable = slot.dial.as_ref().filter(|dial| match dial.opening.peek() {
                Some(Ok(connection)) => connection.alive(),
                Some(Err(_)) => false,
                None => dial.start == start || dial.start == Start::IfNeeded,
            });
            match usable {
                Some(dial) => dial.opening.clone(),
                None => {
                    slot.dials += 1;
                    let number = slot.dials;
                    let opening = self.begin(start, number);
                    let dial = Dial { number, start, opening };
                    slot.dial.insert(dial).opening.clone()
                }
            }
        };
        opening.await
    }

    /// In a task of its own: a client that gives up does not stop it for the others.
    fn begin(&self, start: Start, number: u64) -> Opening {
        let (lane, endpoint, slot) = (self.lane, self.endpoint.clone(), self.slot.clone());
        let runtime = match lane {
            Lane::Control => Handle::current(),
            Lane::Bulk => endpoint.bulk.runtime(),
        };
        // The connection lives where it is dialled.
        let task = runtime.spawn(async move {
            let begun = Instant::now();
            let opened = endpoint.open(lane, start).await;
            let milliseconds = begun.elapsed().as_millis() as u64;
            let (pod, container) = (endpoint.linker.pod(), endpoint.name.as_deref().unwrap_or("-"));
            match opened {
                Ok(connection) => {
                    endpoint.dialed.notify_waiters();
                    let (agent, link) = (&connection.agent.version, connection.link.as_str());
                    tracing::info!(
                        pod,
                        container,
                        lane = lane.name(),
                        link,
                        agent,
                        milliseconds,
                        "link is up"
                    );
                    // Of certificates, and perhaps of an agent's way to the pod.
                    sys::give_memory_back();
                    let connection = Arc::new(connection);
                    if lane == Lane::Bulk {
                        tokio::spawn(close_unused(Arc::downgrade(&connection), slot.clone(), number));
                    }
                    if endpoint.linker.choice() != LinkChoice::Auto || !endpoint.seeks_direct(&connection) {
                        return Ok(connection);
                    }
                    let better = tokio::spawn(upgrade(endpoint, connection.clone(), slot, number));
                    // A command goes at once; what is large gains by the faster link.
                    match lane {
                        Lane::Control => Ok(connection),
                        Lane::Bulk => match timeout(UPGRADE_WAIT, better).await {
                            Ok(Ok(Some(better))) => Ok(better),
                            _ => Ok(connection),
                        },
                    }
                }
                Err(failure) => {
                    let kind = failure.kind.name();
                    tracing::warn!(pod, container, lane = lane.name(), kind, %failure, milliseconds, "link failed");
                    Err(failure)
                }
            }
        });
        async move {
            task.await
                .unwrap_or_else(|_| Err(Failure::bug("the dial of the link failed")))
        }
        .boxed()
        .shared()
    }

    pub(crate) fn drop_link(&self) {
        let (dial, superseded) = {
            let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
            (slot.dial.take(), std::mem::take(&mut slot.superseded))
        };
        let current = dial.as_ref().and_then(|dial| dial.opening.peek());
        let current = current.and_then(|dialed| dialed.as_ref().ok().cloned());
        for connection in [current, superseded.upgrade()].into_iter().flatten() {
            connection.handle.end("a client asked for a new link");
        }
    }

    /// `None`: it was not needed yet.
    pub(crate) fn status(&self) -> Option<LinkStatus> {
        let dial = {
            let slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
            slot.dial.clone()?
        };
        let dialed = dial.opening.peek();
        let (state, agent, message) = match dialed {
            None => ("dialing", None, None),
            Some(Ok(connection)) => match connection.handle.ended() {
                None => ("up", Some(connection.agent.clone()), None),
                Some(reason) => ("down", None, Some(reason)),
            },
            Some(Err(failure)) => ("down", None, Some(failure.message.clone())),
        };
        let connection = dialed.and_then(|dialed| dialed.as_ref().ok());
        let place = connection.and_then(|connection| connection.place.as_ref());
        let place = place.map(|place| place.container.clone());
        let link = connection.map_or(self.endpoint.linker.first(), |connection| connection.link);
        Some(LinkStatus {
            container: self.endpoint.name.clone().or(place),
            link: link.as_str().into(),
            lane: self.lane.name().into(),
            state: state.into(),
            agent,
            message,
        })
    }
}

/// Puts a connection on a direct link into the place of one that was dialled; calls on that one go on where they are.
async fn upgrade(
    endpoint: Arc<Endpoint>,
    first: Arc<Connection>,
    slot: Arc<Mutex<DialState>>,
    number: u64,
) -> Option<Arc<Connection>> {
    let begun = Instant::now();
    let (pod, lane) = (endpoint.linker.pod(), first.lane);
    let better = match endpoint.find_direct(&first).await {
        Ok(better) => Arc::new(better),
        Err(failure) => {
            tracing::info!(pod, lane = lane.name(), why = failure.message, "no direct link");
            return None;
        }
    };
    let opening = ready(Ok(better.clone())).boxed().shared();
    // It can be seen that it is done only when somebody has asked for it.
    let _ = opening.clone().now_or_never();
    let placed = {
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        match slot.dial.as_mut().filter(|dial| dial.number == number) {
            Some(dial) => {
                dial.opening = opening;
                slot.superseded = Arc::downgrade(&first);
                true
            }
            None => false,
        }
    };
    if !placed {
        better.handle.end("a client asked for another link meanwhile");
        return None;
    }
    let milliseconds = begun.elapsed().as_millis() as u64;
    tracing::info!(pod, lane = lane.name(), milliseconds, "link is direct now");
    first.superseded.cancel();
    if lane == Lane::Bulk {
        tokio::spawn(close_unused(Arc::downgrade(&better), slot, number));
    }
    Some(better)
}

/// Ends a connection that only its dial has held for a while. An operation that takes it at that moment dials again.
async fn close_unused(connection: Weak<Connection>, slot: Arc<Mutex<DialState>>, number: u64) {
    let mut unused = false;
    loop {
        sleep(UNUSED).await;
        let Some(connection) = connection.upgrade().filter(|connection| connection.alive()) else {
            return;
        };
        // It ends with its last call.
        if connection.superseded.is_cancelled() {
            return;
        }
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        // The dial's and ours.
        let used = Arc::strong_count(&connection) > 2;
        if !used && unused {
            drop(slot.dial.take_if(|dial| dial.number == number));
            connection.handle.end("nobody needed it for a while");
            drop(connection);
            sys::give_memory_back();
            return;
        }
        unused = !used;
    }
}
