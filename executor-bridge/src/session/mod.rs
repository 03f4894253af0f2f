//! What clients want done in the containers of one pod: execs, files, links. Owns two connections per container, for what is
//! waited for and for what is large, dialled on first use, and the diagnosis when one breaks. `daemon` calls it; gRPC stays inside.

mod background;
mod build_pod;
mod client;
mod exec;
mod files;
mod logs;
mod unacknowledged;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

pub(crate) use client::{Client, ClientInput, InputCredit};
pub(crate) use logs::{
    Interest, LogEvent, LogFollower, LogId, LogIndex, LogListDecoder, LogSource, Position, READER_STALL,
};

use crate::connections::{BulkRuntime, Container, Lane, Reachability};
use crate::link::Linker;
use crate::protocol::request;
use crate::protocol::result::{Done, LinkStatus, Outcome};
use crate::protocol::target::Target;
use background::BackgroundCalls;
use build_pod::BuildPod;
use client::wait_for_cancel;
use exec::BulkLimiter;

/// More than pods have.
const MAX_CONTAINERS: usize = 64;

/// The pod of one target.
#[derive(Debug)]
pub(crate) struct Session {
    linker: Arc<Linker>,
    bulk_runtime: Arc<BulkRuntime>,
    containers: Mutex<HashMap<Option<String>, Arc<Container>>>,
    /// Calls that nobody waits for: Release, Cancel.
    background_calls: BackgroundCalls,
    bulk_limiter: Arc<BulkLimiter>,
    /// In Zuul's slot.
    build_pod: Option<BuildPod>,
}

impl Session {
    pub(crate) fn new(target: Arc<Target>, connect_timeout: Duration, lease: Duration) -> Self {
        Self {
            linker: Arc::new(Linker::new(target, connect_timeout, lease)),
            bulk_runtime: Arc::default(),
            containers: Mutex::default(),
            background_calls: BackgroundCalls::default(),
            bulk_limiter: Arc::new(BulkLimiter::for_this_machine()),
            build_pod: None,
        }
    }

    /// For Zuul's slot: the pod is kept in reach, and only as the machine that was reached first.
    pub(crate) fn for_build(target: Arc<Target>, connect_timeout: Duration, lease: Duration) -> Self {
        let build_pod = Some(BuildPod::default());
        Self {
            build_pod,
            ..Self::new(target, connect_timeout, lease)
        }
    }

    /// Whether the pod is one of a Zuul build, whose clients cannot end the bridge.
    pub(crate) fn serves_build(&self) -> bool {
        self.build_pod.is_some()
    }

    /// Each container that was ever named is kept in reach: no client may name them without end.
    pub(crate) fn admits(&self, container: Option<&str>) -> bool {
        let containers = self.containers.lock().unwrap_or_else(PoisonError::into_inner);
        containers.len() < MAX_CONTAINERS || containers.contains_key(&container.map(str::to_owned))
    }

    fn container(&self, name: Option<&str>) -> Arc<Container> {
        let mut containers = self.containers.lock().unwrap_or_else(PoisonError::into_inner);
        let new_container = || {
            let pin_container = self.build_pod.is_some();
            let name = name.map(str::to_owned);
            let container = Container::new(self.linker.clone(), self.bulk_runtime.clone(), name, pin_container);
            let container = Arc::new(container);
            if let Some(pod) = &self.build_pod {
                pod.keep_connected(container.clone());
            }
            container
        };
        containers
            .entry(name.map(str::to_owned))
            .or_insert_with(new_container)
            .clone()
    }

    pub(crate) async fn exec(&self, container: Option<&str>, request: request::Exec, client: Client) -> Outcome {
        let container = self.container(container);
        let logs = self.build_pod.as_ref().map(|pod| &pod.logs);
        exec::run(
            &container,
            &self.background_calls,
            &self.bulk_limiter,
            logs,
            request,
            client,
        )
        .await
    }

    pub(crate) async fn put(&self, container: Option<&str>, request: request::Put, client: Client) -> Outcome {
        let logs = self.build_pod.as_ref().map(|pod| &*pod.logs);
        files::put(
            &self.container(container),
            &self.background_calls,
            logs,
            request,
            client,
        )
        .await
    }

    pub(crate) async fn get(&self, container: Option<&str>, request: request::Get, client: Client) -> Outcome {
        files::get(&self.container(container), request, client).await
    }

    pub(crate) async fn stat(&self, container: Option<&str>, request: request::Stat, client: Client) -> Outcome {
        files::stat(&self.container(container), request, client).await
    }

    /// Makes sure that the link is up.
    pub(crate) async fn connect(&self, container: Option<&str>, mut client: Client) -> Outcome {
        let container = self.container(container);
        let connected = tokio::select! {
            connected = container.connection(Lane::Control) => connected,
            outcome = wait_for_cancel(&mut client.inputs) => return outcome,
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

    pub(crate) fn logs(&self) -> Option<&Arc<LogIndex>> {
        self.build_pod.as_ref().map(|pod| &pod.logs)
    }

    /// Whether a container can be reached; from now on it is kept so.
    pub(crate) fn reachability(&self, container: Option<&str>) -> watch::Receiver<Reachability> {
        self.container(container);
        let reachability = self.build_pod.as_ref().map(|pod| pod.reachability(container));
        reachability.unwrap_or_else(|| watch::channel(Reachability::Connecting).1)
    }

    pub(crate) fn follow_log(&self, container: Option<&str>, id: &LogId, position: Option<Position>) -> LogFollower {
        LogFollower::new(id, position, self.reachability(container))
    }

    /// Whether there is such a log this moment; `None` if nobody can say.
    pub(crate) async fn log_exists(&self, container: Option<&str>, id: &LogId) -> Option<bool> {
        logs::exists(&self.reachability(container), id).await
    }

    /// Deletes a log wherever it is in this pod, and waits for a link to do so.
    pub(crate) async fn remove_log(&self, id: &LogId) {
        let names: Vec<_> = {
            let containers = self.containers.lock().unwrap_or_else(PoisonError::into_inner);
            containers.keys().cloned().collect()
        };
        let containers = names.iter().map(|name| self.reachability(name.as_deref())).collect();
        logs::remove(containers, id).await;
    }

    /// The ids of all logs of this pod, one JSON array per line, again whenever they change; until the client has gone.
    pub(crate) async fn list_logs(&self, client: Client) -> Outcome {
        match self.logs() {
            Some(logs) => logs::list(logs, client).await,
            None => logs::unsupported(),
        }
    }

    /// One log as it is written, until it is deleted.
    pub(crate) async fn send_log(&self, id: &LogId, from: Option<request::Position>, client: Client) -> Outcome {
        let follow = |container: Option<&str>, position| self.follow_log(container, id, position);
        match self.logs() {
            Some(logs) => logs::send(logs, id, from, client, follow).await,
            None => logs::unsupported(),
        }
    }

    pub(crate) async fn delete_log(&self, id: &LogId) -> Outcome {
        if !self.serves_build() {
            return logs::unsupported();
        }
        self.remove_log(id).await;
        Outcome::done()
    }

    /// Waits for calls under way that no client waits for, but not long.
    pub(crate) async fn settle(&self, limit: Duration) {
        self.background_calls.settle(limit).await;
    }
}
