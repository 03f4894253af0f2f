//! One container: its connection, dialled when first needed and again when dead. Whoever comes while a dial is under way
//! shares it and its answer.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use tokio::sync::Notify;

use super::diagnosis::Patience;
use super::{Connection, internal};
use crate::error::{Failure, Kind};
use crate::link::{Linker, Start};
use crate::protocol::result::LinkStatus;

type Opening = Shared<BoxFuture<'static, Result<Arc<Connection>, Failure>>>;

#[derive(Debug, Clone)]
struct Dial {
    start: Start,
    opening: Opening,
}

#[derive(Debug)]
pub(super) struct Container {
    pub(super) linker: Arc<Linker>,
    /// `None`: the pod's default.
    pub(super) name: Option<String>,
    dial: Mutex<Option<Dial>>,
    /// Told at every dial that succeeds.
    dialed: Arc<Notify>,
    /// The machine that was reached first and none but that is reached again; `None`: whichever is there.
    machine: Option<Arc<OnceLock<String>>>,
}

impl Container {
    pub(super) fn new(linker: Arc<Linker>, name: Option<String>, one_machine: bool) -> Self {
        Self {
            linker,
            name,
            dial: Mutex::new(None),
            dialed: Arc::default(),
            machine: one_machine.then(Arc::default),
        }
    }

    /// Waits for the next dial that succeeds.
    pub(super) async fn dialed_anew(&self) {
        self.dialed.notified().await;
    }

    /// A connection that was alive a moment ago; an agent is started if there is none.
    pub(super) async fn connection(&self) -> Result<Arc<Connection>, Failure> {
        self.dialed(Start::IfNeeded).await
    }

    /// The same, but no agent is started: the one that is sought runs, or is gone for ever.
    pub(super) async fn reconnect(&self) -> Result<Arc<Connection>, Failure> {
        self.dialed(Start::Never).await
    }

    async fn dialed(&self, start: Start) -> Result<Arc<Connection>, Failure> {
        let opening = {
            let mut slot = self.dial.lock().unwrap_or_else(PoisonError::into_inner);
            let usable = slot.as_ref().filter(|dial| match dial.opening.peek() {
                Some(Ok(connection)) => connection.alive(),
                Some(Err(_)) => false,
                None => dial.start == start || dial.start == Start::IfNeeded,
            });
            match usable {
                Some(dial) => dial.opening.clone(),
                None => {
                    let opening = self.begin(start);
                    slot.insert(Dial { start, opening }).opening.clone()
                }
            }
        };
        opening.await
    }

    /// In a task of its own: a client that gives up does not stop it for the others.
    fn begin(&self, start: Start) -> Opening {
        let (linker, name) = (self.linker.clone(), self.name.clone());
        let (dialed, machine) = (self.dialed.clone(), self.machine.clone());
        let task = tokio::spawn(async move {
            let begun = std::time::Instant::now();
            let mut patience = Patience::new(linker.timeout());
            let opened = loop {
                patience.pause().await;
                let opened = match linker.dial(name.as_deref(), start).await {
                    Ok(dialed) => Connection::open(dialed, linker.timeout()).await,
                    Err(failure) => Err(failure),
                };
                match opened {
                    Err(failure) if failure.on_the_way && !patience.is_over() => {}
                    // Zuul starts with a pod as soon as it has its name.
                    Err(failure) if failure.starting && machine.is_some() && !patience.is_over() => {}
                    opened => break opened,
                }
            };
            let opened = opened.and_then(|connection| match &machine {
                Some(machine) => same_machine(connection, machine, &linker),
                None => Ok(connection),
            });
            let milliseconds = begun.elapsed().as_millis() as u64;
            let container = name.as_deref().unwrap_or("-");
            match &opened {
                Ok(connection) => {
                    dialed.notify_waiters();
                    let agent = &connection.agent.version;
                    tracing::info!(pod = linker.pod(), container, agent, milliseconds, "link is up");
                }
                Err(failure) => {
                    let kind = failure.kind.name();
                    tracing::warn!(pod = linker.pod(), container, kind, %failure, milliseconds, "link failed");
                }
            }
            opened.map(Arc::new)
        });
        async move {
            task.await
                .unwrap_or_else(|_| Err(internal("the dial of the link failed")))
        }
        .boxed()
        .shared()
    }

    pub(super) fn drop_link(&self) {
        let slot = self.dial.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Some(Ok(connection))) = slot.as_ref().map(|dial| dial.opening.peek()) {
            connection.handle.end("a client asked for a new link");
        }
    }

    pub(super) fn status(&self) -> LinkStatus {
        let slot = self.dial.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let dialed = slot.as_ref().map(|dial| dial.opening.peek());
        let (state, agent, message) = match dialed {
            None => ("down", None, None),
            Some(None) => ("dialing", None, None),
            Some(Some(Ok(connection))) => match connection.handle.ended() {
                None => ("up", Some(connection.agent.clone()), None),
                Some(reason) => ("down", None, Some(reason)),
            },
            Some(Some(Err(failure))) => ("down", None, Some(failure.message.clone())),
        };
        let place = match dialed {
            Some(Some(Ok(connection))) => connection.place.as_ref().map(|place| place.container.clone()),
            _ => None,
        };
        LinkStatus {
            container: self.name.clone().or(place),
            link: self.linker.name().into(),
            state: state.into(),
            agent,
            message,
        }
    }
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
