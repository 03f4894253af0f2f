//! The connection of one lane of a container: dialled when it is first needed, and again when it is dead. Callers that come during a dial
//! share its answer, and the dial ends when the last of them has gone. A connection on a direct link replaces the first one as soon as there is one. `container` owns one for each lane;
//! `endpoint` opens the connections.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::SetOnce;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use crate::connections::direct_route::UPGRADE_WAIT;
use crate::connections::endpoint::Endpoint;
use crate::connections::{Connection, Lane, upgrade};
use crate::error::Failure;
use crate::link::{AgentStart, LinkName};
use crate::protocol::result::LinkStatus;
use crate::protocol::target::LinkChoice;
use crate::sys;

/// A bulk connection costs a process in the pod: it is closed after one to two of these intervals without use.
const UNUSED_INTERVAL: Duration = Duration::from_secs(60);

/// Result of a dial.
type Opened = Result<Arc<Connection>, Failure>;

/// State of a dial.
#[derive(Debug)]
enum Dial {
    /// A task dials; it sets the answer at its end. The callers that wait for it own the dial.
    Opening {
        start: AgentStart,
        running: Weak<RunningDial>,
    },
    Open(Arc<Connection>),
    Failed(Failure),
}

/// A dial that runs. It ends when it is dropped: with its answer, or with the last caller that waited for it.
#[derive(Debug)]
struct RunningDial {
    answer: SetOnce<Opened>,
    task: AbortHandle,
}

impl Drop for RunningDial {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug, Default)]
struct DialState {
    /// The latest dial; `None` before the first use, and after its connection was closed.
    dial: Option<Dial>,
    /// Sequence number of the latest dial; tells a late task whether its dial was replaced.
    number: u64,
    /// The connection that a better one has replaced; calls may still run on it.
    superseded: Weak<Connection>,
}

impl DialState {
    /// Returns the latest dial if it has this sequence number.
    fn dial(&mut self, number: u64) -> Option<&mut Dial> {
        self.dial.as_mut().filter(|_| self.number == number)
    }
}

/// The state, shared with the tasks that dial, upgrade and close connections.
#[derive(Debug, Clone, Default)]
struct SharedState(Arc<Mutex<DialState>>);

impl SharedState {
    fn lock(&self) -> MutexGuard<'_, DialState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub(crate) struct LaneConnection {
    lane: Lane,
    endpoint: Arc<Endpoint>,
    state: SharedState,
}

impl LaneConnection {
    pub(crate) fn new(lane: Lane, endpoint: Arc<Endpoint>) -> Self {
        Self {
            lane,
            endpoint,
            state: SharedState::default(),
        }
    }

    /// Returns the open connection, or the answer of the running dial, or of a new dial.
    pub(crate) async fn connect(&self, start: AgentStart) -> Opened {
        let dial = {
            let mut state = self.state.lock();
            let running = match &state.dial {
                Some(Dial::Open(connection)) if connection.is_alive() => return Ok(connection.clone()),
                // A dial that may not start an agent does not serve a caller that needs one.
                Some(Dial::Opening {
                    start: allowed,
                    running,
                }) if *allowed == start || *allowed == AgentStart::IfNeeded => running.upgrade(),
                _ => None,
            };
            match running {
                Some(running) => running,
                None => {
                    state.number += 1;
                    let dial = self.dial(start, state.number);
                    state.dial = Some(Dial::Opening {
                        start,
                        running: Arc::downgrade(&dial),
                    });
                    dial
                }
            }
        };
        dial.answer.wait().await.clone()
    }

    /// Dials in a task of its own, so that a caller that gives up does not stop the dial for the others.
    fn dial(&self, start: AgentStart, number: u64) -> Arc<RunningDial> {
        // A connection is served by the runtime on which it is opened.
        let runtime = match self.lane {
            Lane::Control => Handle::current(),
            Lane::Bulk => self.endpoint.bulk.runtime(),
        };
        let opening = runtime.spawn(open(
            self.lane,
            self.endpoint.clone(),
            self.state.clone(),
            start,
            number,
        ));
        let dial = Arc::new(RunningDial {
            answer: SetOnce::new(),
            task: opening.abort_handle(),
        });
        let (state, running) = (self.state.clone(), Arc::downgrade(&dial));
        runtime.spawn(async move {
            let opened = match opening.await {
                Ok(opened) => opened,
                Err(error) if error.is_cancelled() => {
                    let mut state = state.lock();
                    if let Some(Dial::Opening { .. }) = state.dial(number) {
                        state.dial = None;
                    }
                    return;
                }
                Err(_) => Err(Failure::bug("the dial of the link failed")),
            };
            // `upgrade` may have put a better connection there already; it stays.
            if let Some(dial @ Dial::Opening { .. }) = state.lock().dial(number) {
                *dial = match opened.clone() {
                    Ok(connection) => Dial::Open(connection),
                    Err(failure) => Dial::Failed(failure),
                };
            }
            if let Some(dial) = running.upgrade() {
                // The error case cannot happen: only this task sets it.
                let _ = dial.answer.set(opened);
            }
        });
        dial
    }

    /// Ends the connection, and the one that it has replaced.
    pub(crate) fn drop_link(&self) {
        let (dial, superseded) = {
            let mut state = self.state.lock();
            (state.dial.take(), std::mem::take(&mut state.superseded))
        };
        let current = match dial {
            Some(Dial::Open(connection)) => Some(connection),
            Some(Dial::Opening { .. } | Dial::Failed(_)) | None => None,
        };
        for connection in [current, superseded.upgrade()].into_iter().flatten() {
            connection.handle.end("a client asked for a new link");
        }
    }

    /// Returns the status of the lane; `None` if the lane was not needed yet.
    pub(crate) fn status(&self) -> Option<LinkStatus> {
        let shared = self.state.lock();
        let (state, connection, agent, message) = match shared.dial.as_ref()? {
            Dial::Opening { .. } => ("dialing", None, None, None),
            Dial::Open(connection) => match connection.handle.end_reason() {
                None => {
                    let reason = self.endpoint.linker.kubectl_reason();
                    let reason = reason.filter(|_| connection.link == LinkName::Kubectl);
                    let message = reason.map(|reason| format!("podbridge's own client cannot: {reason}"));
                    ("up", Some(connection), Some(connection.agent.clone()), message)
                }
                Some(reason) => ("down", Some(connection), None, Some(reason)),
            },
            Dial::Failed(failure) => ("down", None, None, Some(failure.message.clone())),
        };
        let container = connection.and_then(|connection| connection.container.as_ref());
        let container = container.map(|container| container.container.clone());
        let link = connection.map_or(self.endpoint.linker.first(), |connection| connection.link);
        Some(LinkStatus {
            pod: self.endpoint.pod.clone(),
            container: self.endpoint.name.clone().or(container),
            link: link.as_str().into(),
            lane: self.lane.name().into(),
            state: state.into(),
            agent,
            message,
        })
    }
}

/// Opens a connection, and starts the tasks that upgrade it and that close it when it is unused.
async fn open(lane: Lane, endpoint: Arc<Endpoint>, state: SharedState, start: AgentStart, number: u64) -> Opened {
    let started = Instant::now();
    let opened = endpoint.open(lane, start).await;
    let milliseconds = started.elapsed().as_millis() as u64;
    let (pod, container) = (endpoint.linker.pod(), endpoint.name.as_deref().unwrap_or("-"));
    let connection = match opened {
        Ok(connection) => Arc::new(connection),
        Err(failure) => {
            let kind = failure.kind.name();
            tracing::warn!(pod, container, lane = lane.name(), kind, %failure, milliseconds, "link failed");
            return Err(failure);
        }
    };
    endpoint.dialed.send_modify(|count| *count += 1);
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
    // Dialling leaves garbage behind (certificates, the 7 MB agent binary): return it to the OS.
    sys::give_memory_back();
    if lane == Lane::Bulk {
        tokio::spawn(close_unused(Arc::downgrade(&connection), state.clone(), number));
    }
    if endpoint.linker.choice() != LinkChoice::Auto || !upgrade::begin_search(&endpoint.routes, &connection) {
        return Ok(connection);
    }
    let better = tokio::spawn(upgrade(endpoint, connection.clone(), state, number));
    // A command starts at once; a bulk operation gains more by the faster link than it loses by the wait.
    match lane {
        Lane::Control => Ok(connection),
        Lane::Bulk => match timeout(UPGRADE_WAIT, better).await {
            Ok(Ok(Some(better))) => Ok(better),
            _ => Ok(connection),
        },
    }
}

/// Replaces a connection by one on a direct link; calls on the first connection continue there. `None`: there is no direct link, or the
/// dial was replaced meanwhile.
async fn upgrade(
    endpoint: Arc<Endpoint>,
    first: Arc<Connection>,
    state: SharedState,
    number: u64,
) -> Option<Arc<Connection>> {
    let started = Instant::now();
    let (pod, lane) = (endpoint.linker.pod(), first.lane);
    let better = match upgrade::find_direct(&endpoint.routes, pod, &first).await {
        Ok(better) => Arc::new(better),
        Err(failure) => {
            tracing::info!(pod, lane = lane.name(), why = failure.message, "no direct link");
            return None;
        }
    };
    let replaced = {
        let mut state = state.lock();
        let replaced = state.dial(number).map(|dial| *dial = Dial::Open(better.clone()));
        if replaced.is_some() {
            state.superseded = Arc::downgrade(&first);
        }
        replaced
    };
    if replaced.is_none() {
        better.handle.end("a client asked for another link meanwhile");
        return None;
    }
    let milliseconds = started.elapsed().as_millis() as u64;
    tracing::info!(pod, lane = lane.name(), milliseconds, "link is direct now");
    first.superseded.cancel();
    if lane == Lane::Bulk {
        tokio::spawn(close_unused(Arc::downgrade(&better), state, number));
    }
    Some(better)
}

/// Ends a connection that no operation has held for a while. An operation that takes the connection at that moment dials again.
async fn close_unused(connection: Weak<Connection>, state: SharedState, number: u64) {
    let mut unused = false;
    loop {
        sleep(UNUSED_INTERVAL).await;
        let Some(connection) = connection.upgrade().filter(|connection| connection.is_alive()) else {
            return;
        };
        // A superseded connection ends with its last call.
        if connection.superseded.is_cancelled() {
            return;
        }
        let mut state = state.lock();
        // Two references are no sign of use: the dial has one, and this task has one.
        let used = Arc::strong_count(&connection) > 2;
        if !used && unused {
            if state.dial(number).is_some() {
                state.dial = None;
            }
            connection.handle.end("no operation needed it for a while");
            drop(connection);
            sys::give_memory_back();
            return;
        }
        unused = !used;
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::io::AsyncReadExt as _;
    use tokio::net::UnixListener;

    use super::*;
    use crate::error::Kind;
    use crate::link::Linker;
    use crate::protocol::target::Target;

    const SHORT: Duration = Duration::from_millis(100);
    const LONG: Duration = Duration::from_secs(60);

    /// Makes the control connection to an agent that listens on this socket.
    fn lane_connection(socket: &Path, limit: Duration) -> LaneConnection {
        let target = Target {
            link: Some(LinkChoice::Local),
            agent_socket: Some(socket.to_owned()),
            ..Target::default()
        };
        let linker = Linker::new(Arc::new(target), limit, Duration::ZERO);
        let endpoint = Endpoint {
            linker: Arc::new(linker),
            bulk: Arc::default(),
            pod: None,
            name: None,
            dialed: Default::default(),
            routes: Default::default(),
            pinned: None,
        };
        LaneConnection::new(Lane::Control, Arc::new(endpoint))
    }

    #[tokio::test]
    async fn callers_share_a_dial_and_after_a_failure_the_next_caller_dials_again() {
        let directory = tempfile::tempdir().unwrap();
        let lane = lane_connection(&directory.path().join("absent"), SHORT);
        assert!(lane.status().is_none());
        let connect = || lane.connect(AgentStart::IfNeeded);
        let (one, two) = tokio::join!(connect(), connect());
        assert_eq!(one.unwrap_err(), two.unwrap_err());
        assert_eq!(lane.state.lock().number, 1);
        let status = lane.status().unwrap();
        assert!(status.message.unwrap().contains("no such socket"));
        assert_eq!(status.state, "down");
        assert_eq!(connect().await.unwrap_err().kind, Kind::Agent);
        assert_eq!(lane.state.lock().number, 2);
    }

    #[tokio::test]
    async fn a_dial_ends_when_the_last_caller_has_gone() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("silent");
        let listener = UnixListener::bind(&socket).unwrap();
        let lane = lane_connection(&socket, LONG);
        let runs = || match &lane.state.lock().dial {
            Some(Dial::Opening { running, .. }) => running.upgrade().is_some(),
            _ => false,
        };
        let mut callers = [(); 2].map(|()| Box::pin(lane.connect(AgentStart::IfNeeded)));
        for caller in &mut callers {
            assert!(timeout(Duration::ZERO, caller).await.is_err());
        }
        let [first, second] = callers;
        let (mut link, _) = listener.accept().await.unwrap();
        drop(first);
        assert!(runs(), "the second caller waits");
        drop(second);
        assert!(!runs());
        // The dial lets go of its link at once, and not at its own time limit.
        let started = Instant::now();
        link.read_to_end(&mut Vec::new()).await.unwrap();
        assert!(started.elapsed() < LONG / 2);
        drop(listener);
        assert_eq!(lane.connect(AgentStart::IfNeeded).await.unwrap_err().kind, Kind::Agent);
        assert_eq!(lane.state.lock().number, 2);
    }

    #[tokio::test]
    async fn the_answer_of_a_dropped_dial_reaches_its_callers_and_nobody_else() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("silent");
        let _listener = UnixListener::bind(&socket).unwrap();
        let lane = lane_connection(&socket, SHORT);
        let caller = lane.connect(AgentStart::IfNeeded);
        let drop_link = async {
            tokio::task::yield_now().await;
            assert_eq!(lane.status().unwrap().state, "dialing");
            lane.drop_link();
        };
        let (answer, ()) = tokio::join!(caller, drop_link);
        assert_eq!(answer.unwrap_err().kind, Kind::Timeout);
        assert!(lane.status().is_none());
    }
}
