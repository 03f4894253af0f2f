//! One connection of a container: dialled when first needed and again when dead. Whoever comes while a dial is under way shares
//! it and its answer. A connection on a faster link takes its place as soon as there is one. `container` has one for each lane.

use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, ready};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::bulk::Bulk;
use super::connection::Lane;
use super::diagnosis::Patience;
use super::direct::{Direct, GRACE};
use super::{Connection, internal};
use crate::error::{Failure, Kind};
use crate::link::{Linker, Start};
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
struct Slot {
    dial: Option<Dial>,
    dials: u64,
    /// By the dial's connection; calls may still be on it.
    superseded: Weak<Connection>,
}

/// What the lines of one container have in common.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) linker: Arc<Linker>,
    pub(super) bulk: Arc<Bulk>,
    /// `None`: the pod's default.
    pub(super) name: Option<String>,
    /// Told at every dial that succeeds.
    pub(super) dialed: Notify,
    pub(super) direct: Direct,
    /// The machine that was reached first and none but that is reached again; `None`: whichever is there.
    pub(super) machine: Option<OnceLock<String>>,
}

#[derive(Debug)]
pub(super) struct Line {
    lane: Lane,
    ends: Arc<Ends>,
    slot: Arc<Mutex<Slot>>,
}

impl Line {
    pub(super) fn new(lane: Lane, ends: Arc<Ends>) -> Self {
        Self {
            lane,
            ends,
            slot: Arc::default(),
        }
    }

    pub(super) async fn dialed(&self, start: Start) -> Result<Arc<Connection>, Failure> {
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
        let (lane, ends, slot) = (self.lane, self.ends.clone(), self.slot.clone());
        let runtime = match lane {
            Lane::Control => Handle::current(),
            Lane::Bulk => ends.bulk.runtime(),
        };
        // The connection lives where it is dialled.
        let task = runtime.spawn(async move {
            let begun = Instant::now();
            let opened = ends.open(lane, start).await;
            let milliseconds = begun.elapsed().as_millis() as u64;
            let (pod, container) = (ends.linker.pod(), ends.name.as_deref().unwrap_or("-"));
            match opened {
                Ok(connection) => {
                    ends.dialed.notify_waiters();
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
                    if ends.linker.choice() != LinkChoice::Auto || !ends.seeks_direct(&connection) {
                        return Ok(connection);
                    }
                    let better = tokio::spawn(upgrade(ends, connection.clone(), slot, number));
                    // A command goes at once; what is large gains by the faster link.
                    match lane {
                        Lane::Control => Ok(connection),
                        Lane::Bulk => match timeout(GRACE, better).await {
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
                .unwrap_or_else(|_| Err(internal("the dial of the link failed")))
        }
        .boxed()
        .shared()
    }

    pub(super) fn drop_link(&self) {
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
    pub(super) fn status(&self) -> Option<LinkStatus> {
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
        let link = connection.map_or(self.ends.linker.first(), |connection| connection.link);
        Some(LinkStatus {
            container: self.ends.name.clone().or(place),
            link: link.as_str().into(),
            lane: self.lane.name().into(),
            state: state.into(),
            agent,
            message,
        })
    }
}

impl Ends {
    async fn open(&self, lane: Lane, start: Start) -> Result<Connection, Failure> {
        if let Some(connection) = self.directly(lane).await {
            return Ok(connection);
        }
        let linker = &self.linker;
        let mut patience = Patience::new(linker.timeout());
        let connection = loop {
            patience.pause().await;
            let opened = match linker.dial(self.name.as_deref(), start).await {
                Ok(dialed) => Connection::open(dialed, lane, linker.timeout()).await,
                Err(failure) => Err(failure),
            };
            match opened {
                Err(failure) if failure.on_the_way && !patience.is_over() => {}
                // Zuul starts with a pod as soon as it has its name.
                Err(failure) if failure.starting && self.machine.is_some() && !patience.is_over() => {}
                opened => break opened?,
            }
        };
        let connection = match &self.machine {
            Some(machine) => same_machine(connection, machine, linker)?,
            None => connection,
        };
        match linker.choice() {
            LinkChoice::Direct => self.find_direct(&connection).await.map_err(|failure| Failure {
                message: format!(
                    "{}; without `--link direct` the API server carries all",
                    failure.message
                ),
                ..failure
            }),
            LinkChoice::Auto | LinkChoice::ExecProxy | LinkChoice::Local => Ok(connection),
        }
    }
}

/// Puts a connection on a direct link into the place of one that was dialled; calls on that one go on where they are.
async fn upgrade(
    ends: Arc<Ends>,
    first: Arc<Connection>,
    slot: Arc<Mutex<Slot>>,
    number: u64,
) -> Option<Arc<Connection>> {
    let begun = Instant::now();
    let (pod, lane) = (ends.linker.pod(), first.lane);
    let better = match ends.find_direct(&first).await {
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

/// A container that was restarted is empty: what was prepared in it is gone, and nothing may run there as if it were not.
fn same_machine(connection: Connection, machine: &OnceLock<String>, linker: &Linker) -> Result<Connection, Failure> {
    if *machine.get_or_init(|| connection.machine()) == connection.machine() {
        return Ok(connection);
    }
    connection.handle.end("it leads to another machine");
    let container = connection.place.as_ref().map_or("-", |place| &place.container);
    Err(Failure::new(
        Kind::PodNotRunning,
        format!(
            "container {container} of pod {} was restarted: it is no longer the machine that this build began with; \
             look for its reason with `kubectl describe pod`",
            linker.pod()
        ),
    ))
}

/// Ends a connection that only its dial has held for a while. An operation that takes it at that moment dials again.
async fn close_unused(connection: Weak<Connection>, slot: Arc<Mutex<Slot>>, number: u64) {
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
