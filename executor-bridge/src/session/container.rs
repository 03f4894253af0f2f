//! One container: its connection, dialled when first needed and again when dead. Whoever comes while a dial is under way
//! shares it and its answer.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};

use super::diagnosis::Patience;
use super::{Connection, internal};
use crate::error::Failure;
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
}

impl Container {
    pub(super) fn new(linker: Arc<Linker>, name: Option<String>) -> Self {
        Self {
            linker,
            name,
            dial: Mutex::new(None),
        }
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
                    opened => break opened,
                }
            };
            let milliseconds = begun.elapsed().as_millis() as u64;
            let container = name.as_deref().unwrap_or("-");
            match &opened {
                Ok(connection) => {
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
