//! What clients want done in the containers of one pod: execs, files, links. Owns two connections per container, for what is
//! waited for and for what is large, dialled on first use, and the diagnosis when one breaks. `daemon` calls it; gRPC stays inside.

mod bulk;
mod connection;
mod container;
mod descriptor;
mod diagnosis;
mod direct;
mod exec;
mod files;
mod get;
mod landing;
mod line;
mod logs;
mod outgoing;
mod pending;
mod put;
mod reading;
mod status;
mod sums;
mod turns;

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};

use crate::error::{Failure, Kind};
use crate::link::Linker;
use crate::protocol::frame::Frame;
use crate::protocol::request;
use crate::protocol::result::{Done, LinkStatus, Outcome};
use crate::protocol::target::Target;
use bulk::Bulk;
use connection::{Connection, Lane};
use container::Container;
use logs::Keeper;
pub(crate) use logs::{Event as LogEvent, Follow, Interest, Lists, LogId, Logs, Position, Reach, STALL, Source};
use turns::Turns;

/// More than pods have.
const CONTAINERS: usize = 64;

/// What a client says after its request.
#[derive(Debug)]
pub(crate) enum Input {
    Stdin(Bytes, Charge),
    StdinEof(#[expect(dead_code, reason = "counts until it is dropped")] Charge),
    Signal(u8, Charge),
    Resize {
        rows: u16,
        cols: u16,
        charge: Charge,
    },
    /// Closed the connection: cancel.
    Gone,
    /// Broke the protocol: cancel, and say so.
    Bad(String),
}

/// What an input weighs in its client's allowance, until it was dealt with.
#[derive(Debug)]
pub(crate) struct Charge(#[allow(dead_code)] OwnedSemaphorePermit);

impl Charge {
    pub(crate) fn new(permit: OwnedSemaphorePermit) -> Self {
        Self(permit)
    }
}

/// The client as an operation sees it.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) inputs: mpsc::UnboundedReceiver<Input>,
    /// Bounded: a slow client slows its own operation down. Closed: it has gone.
    pub(crate) replies: mpsc::Sender<Frame>,
    pub(crate) descriptors: VecDeque<OwnedFd>,
    /// Ends when the client has its result, or nobody will tell it any more.
    pub(crate) told: oneshot::Receiver<()>,
}

/// The pod of one target.
#[derive(Debug)]
pub(crate) struct Session {
    linker: Arc<Linker>,
    bulk: Arc<Bulk>,
    containers: Mutex<HashMap<Option<String>, Arc<Container>>>,
    /// Calls that nobody waits for: Release, Cancel.
    errands: Errands,
    turns: Arc<Turns>,
    /// In Zuul's slot.
    kept: Option<Kept>,
}

/// The containers of a build's pod, kept in reach for as long as the build lasts, and their logs.
#[derive(Debug, Default)]
struct Kept {
    logs: Arc<Logs>,
    keepers: Mutex<HashMap<Option<String>, Arc<Keeper>>>,
}

impl Session {
    pub(crate) fn new(target: Arc<Target>, connect_timeout: Duration, lease: Duration) -> Self {
        Self {
            linker: Arc::new(Linker::new(target, connect_timeout, lease)),
            bulk: Arc::default(),
            containers: Mutex::default(),
            errands: Errands::default(),
            turns: Arc::new(Turns::of_this_machine()),
            kept: None,
        }
    }

    /// For Zuul's slot: the pod is kept in reach, and only as the machine that was reached first.
    pub(crate) fn kept(target: Arc<Target>, connect_timeout: Duration, lease: Duration) -> Self {
        let kept = Some(Kept::default());
        Self {
            kept,
            ..Self::new(target, connect_timeout, lease)
        }
    }

    /// Each container that was ever named is kept in reach: no client may name them without end.
    pub(crate) fn admits(&self, container: Option<&str>) -> bool {
        let containers = self.containers.lock().unwrap_or_else(PoisonError::into_inner);
        containers.len() < CONTAINERS || containers.contains_key(&container.map(str::to_owned))
    }

    fn container(&self, name: Option<&str>) -> Arc<Container> {
        let mut containers = self.containers.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = || {
            let one_machine = self.kept.is_some();
            let name = name.map(str::to_owned);
            let container = Container::new(self.linker.clone(), self.bulk.clone(), name, one_machine);
            let container = Arc::new(container);
            if let Some(kept) = &self.kept {
                kept.keep(container.clone());
            }
            container
        };
        containers.entry(name.map(str::to_owned)).or_insert_with(begin).clone()
    }

    pub(crate) async fn exec(&self, container: Option<&str>, request: request::Exec, client: Client) -> Outcome {
        let container = self.container(container);
        let logs = self.kept.as_ref().map(|kept| &kept.logs);
        exec::run(&container, &self.errands, &self.turns, logs, request, client).await
    }

    pub(crate) async fn put(&self, container: Option<&str>, request: request::Put, client: Client) -> Outcome {
        let logs = self.kept.as_ref().map(|kept| &*kept.logs);
        put::put(&self.container(container), &self.errands, logs, request, client).await
    }

    pub(crate) async fn get(&self, container: Option<&str>, request: request::Get, client: Client) -> Outcome {
        get::get(&self.container(container), request, client).await
    }

    pub(crate) async fn stat(&self, container: Option<&str>, request: request::Stat, client: Client) -> Outcome {
        files::stat(&self.container(container), request, client).await
    }

    /// Makes sure that the link is up.
    pub(crate) async fn connect(&self, container: Option<&str>, mut client: Client) -> Outcome {
        let container = self.container(container);
        let connected = tokio::select! {
            connected = container.connection(Lane::Control) => connected,
            outcome = gone(&mut client.inputs) => return outcome,
        };
        match connected {
            Ok(connection) => Outcome::Ok(Done {
                agent: Some(connection.agent.clone()),
                ..Done::default()
            }),
            Err(failure) => Outcome::Unreachable(failure),
        }
    }

    /// Drops the link and dials again. Commands go on over the new one.
    pub(crate) async fn relink(&self, container: Option<&str>, client: Client) -> Outcome {
        self.container(container).drop_links();
        self.connect(container, client).await
    }

    pub(crate) fn links(&self) -> Vec<LinkStatus> {
        let containers = self.containers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut links: Vec<_> = containers.values().flat_map(|container| container.status()).collect();
        // Stable: control stays before bulk.
        links.sort_by(|a, b| a.container.cmp(&b.container));
        links
    }

    /// Waits for calls under way that no client waits for, but not long.
    pub(crate) async fn settle(&self, patience: Duration) {
        self.errands.settle(patience).await;
    }
}

impl Kept {
    fn reach(&self, container: Option<&str>) -> watch::Receiver<Reach> {
        let keepers = self.keepers.lock().unwrap_or_else(PoisonError::into_inner);
        let keeper = keepers.get(&container.map(str::to_owned));
        keeper.map_or_else(|| watch::channel(Reach::Sought).1, |keeper| keeper.reach())
    }

    fn keep(&self, container: Arc<Container>) {
        let mut keepers = self.keepers.lock().unwrap_or_else(PoisonError::into_inner);
        keepers.insert(
            container.name().map(str::to_owned),
            Keeper::start(container, self.logs.clone()),
        );
    }
}

/// Ends when the client gives up; for operations that take no input.
async fn gone(inputs: &mut mpsc::UnboundedReceiver<Input>) -> Outcome {
    loop {
        match inputs.recv().await {
            Some(Input::Gone) | None => return Outcome::Cancelled(Default::default()),
            Some(Input::Bad(why)) => return bad_request(why),
            Some(Input::Stdin(..) | Input::StdinEof(_) | Input::Signal(..) | Input::Resize { .. }) => {}
        }
    }
}

fn bad_request(why: impl Into<String>) -> Outcome {
    Outcome::failed(crate::error::FailedKind::BadRequest, why)
}

fn internal(what: &str) -> Failure {
    Failure::new(
        Kind::Internal,
        format!("{what}; this is a bug in podbridge, please report it"),
    )
}

/// Tasks of their own that are waited for only when the bridge ends.
#[derive(Debug, Default)]
struct Errands(Mutex<tokio::task::JoinSet<()>>);

impl Errands {
    fn send(&self, errand: impl Future<Output = ()> + Send + 'static) {
        let mut errands = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Ended ones are only dropped when asked for.
        while errands.try_join_next().is_some() {}
        errands.spawn(errand);
    }

    async fn settle(&self, patience: Duration) {
        let mut errands = {
            let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *held)
        };
        // What is not done by then ends with the process.
        let _ = tokio::time::timeout(patience, async { while errands.join_next().await.is_some() {} }).await;
    }
}
