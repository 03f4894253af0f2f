//! The operations of one bridge: execs, files, console logs and links in the containers of one pod. Owns the
//! containers, the limit on bulk commands, the calls that no client waits for, and the state of a pod whose live logs Zuul reads.
//! Calls the agent's exec, file and log services on connections that `connections` provides. `daemon` calls `Session`
//! for each request, `console` for logs.

mod background;
mod budget;
mod client;
mod exec;
mod files;
mod logs;
mod news;
mod refusals;
mod unacknowledged;
mod watched_pod;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

pub(crate) use budget::{Budget, Credit, InputShare};
pub(crate) use client::{Client, ClientInput, Replies, Reply};
#[cfg(any(test, fuzzing))]
pub(crate) use exec::check_exit_record;
pub(crate) use logs::{
    Interest, LogEvent, LogFollower, LogId, LogIndex, LogListDecoder, LogSource, Position, READER_STALL,
};

use crate::connections::{BulkRuntime, Container, Lane, Reachability};
use crate::error::FailedKind;
use crate::error::Failure;
use crate::link::Linker;
use crate::protocol::request;
use crate::protocol::result::{Done, LinkStatus, Outcome};
use crate::protocol::target::Target;
use background::BackgroundCalls;
use client::wait_for_cancel;
use exec::BulkLimiter;
use refusals::Refusals;
use watched_pod::WatchedPod;

/// Most containers that clients may name. A pod has fewer.
pub(crate) const MAX_CONTAINERS: usize = 64;

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct ContainerKey {
    /// Pod that the target's object name means; `None`: the target names a pod.
    pod: Option<String>,
    /// `None`: the pod's default container.
    container: Option<String>,
}

/// The operations on one pod, the pod of the bridge's target.
#[derive(Debug)]
pub(crate) struct Session {
    linker: Arc<Linker>,
    bulk_runtime: Arc<BulkRuntime>,
    /// Containers that a client has named, in the pods that the target's object name has meant.
    containers: Mutex<HashMap<ContainerKey, Arc<Container>>>,
    /// Release and Cancel calls, which no client waits for.
    background_calls: BackgroundCalls,
    /// Limit on the bulk commands that run at the same time.
    bulk_limiter: Arc<BulkLimiter>,
    /// How much the operations of all clients may hold.
    budget: Budget,
    /// What was refused or delayed by a limit, for the log.
    refusals: Refusals,
    /// The logs of the pod; `None` if no console stream serves them.
    watched_pod: Option<WatchedPod>,
    /// The bridge is in Zuul's slot: the pod is one machine for as long as the build lasts, and clients cannot stop the bridge.
    in_slot: bool,
}

impl Session {
    /// Makes the session of a bridge that was started on demand.
    pub(crate) fn new(target: Arc<Target>, connect_timeout: Duration, lease: Duration) -> Self {
        Self {
            linker: Arc::new(Linker::new(target, connect_timeout, lease)),
            bulk_runtime: Arc::default(),
            containers: Mutex::default(),
            background_calls: BackgroundCalls::default(),
            bulk_limiter: Arc::new(BulkLimiter::for_this_machine()),
            budget: Budget::default(),
            refusals: Refusals::default(),
            watched_pod: None,
            in_slot: false,
        }
    }

    /// Makes the session of a bridge in Zuul's slot. The session keeps the pod connected, and refuses another pod of
    /// the same name.
    pub(crate) fn for_build(target: Arc<Target>, connect_timeout: Duration, lease: Duration) -> Self {
        let linker = Linker::new(target.clone(), connect_timeout, lease).confined();
        Self {
            watched_pod: Some(WatchedPod::default()),
            in_slot: true,
            linker: Arc::new(linker),
            ..Self::new(target, connect_timeout, lease)
        }
    }

    /// Makes the session of a bridge that was started on demand and serves the live log of a pod that a job made. The job may make the pod
    /// anew under the same name.
    pub(crate) fn with_live_log(target: Arc<Target>, connect_timeout: Duration, lease: Duration) -> Self {
        Self {
            watched_pod: Some(WatchedPod::default()),
            ..Self::new(target, connect_timeout, lease)
        }
    }

    /// Returns whether the bridge is in Zuul's slot. The clients of a build cannot stop it.
    pub(crate) fn serves_build(&self) -> bool {
        self.in_slot
    }

    pub(crate) fn budget(&self) -> &Budget {
        &self.budget
    }

    pub(crate) fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Returns whether a fresh bridge would reach the same pod with the same rights. In Zuul's slot the build's own kubeconfig decides
    /// once, as Zuul rewrites it for each node.
    pub(crate) fn is_current(&self) -> bool {
        self.serves_build() || self.linker.is_current()
    }

    /// Takes a token for later dials if the API server says that it is another one of this bridge's user.
    pub(crate) async fn admit_token(&self, token: String, mut client: Client) -> Outcome {
        let admitted = tokio::select! {
            admitted = self.linker.admit_token(token) => admitted,
            outcome = wait_for_cancel(&mut client.inputs) => return outcome,
        };
        match admitted {
            Ok(true) => Outcome::done(),
            Ok(false) => Outcome::failed(FailedKind::Permission, "the token belongs to another user"),
            Err(failure) => Outcome::Unreachable(failure),
        }
    }

    /// Returns whether the bridge accepts this container name. The bridge keeps state for every name, so it accepts at
    /// most `MAX_CONTAINERS` names.
    pub(crate) fn admits(&self, container: Option<&str>) -> bool {
        let mut containers = self.containers.lock().unwrap_or_else(PoisonError::into_inner);
        self.forget_unknown(&mut containers);
        containers.len() < MAX_CONTAINERS || containers.keys().any(|key| key.container.as_deref() == container)
    }

    /// Forgets the names of containers that were never reached and that nobody looks for any more: the pod does not have them. Without a
    /// watched pod nobody looks for containers, so nothing is known of them.
    fn forget_unknown(&self, containers: &mut HashMap<ContainerKey, Arc<Container>>) {
        if self.watched_pod.is_none() {
            return;
        }
        containers.retain(|key, container| {
            key.container.is_none() || container.was_reached() || Arc::strong_count(container) > 1
        });
    }

    /// Returns the container of that name, in the pod that the target means at this moment. A new operation goes where kubectl would go;
    /// a running one stays where it is (ADR 17).
    async fn container(&self, name: Option<&str>) -> Result<Arc<Container>, Failure> {
        let pod = self.linker.resolve_pod().await?;
        if pod.is_some() {
            let mut containers = self.containers.lock().unwrap_or_else(PoisonError::into_inner);
            // The containers of earlier pods stay as long as an operation uses them.
            containers.retain(|key, container| key.pod == pod || Arc::strong_count(container) > 1);
        }
        Ok(self.container_of_pod(pod, name))
    }

    /// Returns the container of that name in a pod; makes it on first use.
    fn container_of_pod(&self, pod: Option<String>, name: Option<&str>) -> Arc<Container> {
        let mut containers = self.containers.lock().unwrap_or_else(PoisonError::into_inner);
        self.forget_unknown(&mut containers);
        let key = ContainerKey {
            pod,
            container: name.map(str::to_owned),
        };
        let new_container = || {
            let pin_container = self.in_slot;
            let (pod, name) = (key.pod.clone(), key.container.clone());
            let container = Container::new(self.linker.clone(), self.bulk_runtime.clone(), pod, name, pin_container);
            let container = Arc::new(container);
            if let Some(pod) = &self.watched_pod {
                pod.keep_connected(container.clone());
            }
            container
        };
        containers.entry(key.clone()).or_insert_with(new_container).clone()
    }

    /// Runs one command and returns its outcome.
    pub(crate) async fn exec(&self, container: Option<&str>, request: request::Exec, client: Client) -> Outcome {
        let container = match self.container(container).await {
            Ok(container) => container,
            Err(failure) => return Outcome::Unreachable(failure),
        };
        let logs = self.watched_pod.as_ref().map(|pod| &pod.logs);
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

    /// Writes one file in the container.
    pub(crate) async fn put(&self, container: Option<&str>, request: request::Put, client: Client) -> Outcome {
        let container = match self.container(container).await {
            Ok(container) => container,
            Err(failure) => return Outcome::Unreachable(failure),
        };
        let logs = self.watched_pod.as_ref().map(|pod| &*pod.logs);
        files::put(&container, &self.background_calls, logs, request, client).await
    }

    /// Reads one file of the container.
    pub(crate) async fn get(&self, container: Option<&str>, request: request::Get, client: Client) -> Outcome {
        match self.container(container).await {
            Ok(container) => files::get(&container, request, client).await,
            Err(failure) => Outcome::Unreachable(failure),
        }
    }

    /// Returns the attributes of one path in the container.
    pub(crate) async fn stat(&self, container: Option<&str>, request: request::Stat, client: Client) -> Outcome {
        match self.container(container).await {
            Ok(container) => files::stat(&container, request, client).await,
            Err(failure) => Outcome::Unreachable(failure),
        }
    }

    /// Connects to the agent, if no connection is up.
    pub(crate) async fn connect(&self, container: Option<&str>, mut client: Client) -> Outcome {
        let connect = async { self.container(container).await?.connection(Lane::Control).await };
        let connected = tokio::select! {
            connected = connect => connected,
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

    /// Drops the connections and connects again. Running commands continue over the new connection.
    pub(crate) async fn relink(&self, container: Option<&str>, client: Client) -> Outcome {
        match self.container(container).await {
            Ok(container) => container.drop_links(),
            Err(failure) => return Outcome::Unreachable(failure),
        }
        self.connect(container, client).await
    }

    /// Returns the state of all links, sorted by container.
    pub(crate) fn links(&self) -> Vec<LinkStatus> {
        let containers = self.containers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut links: Vec<_> = containers.values().flat_map(|container| container.status()).collect();
        // The sort is stable: control stays before bulk.
        links.sort_by(|a, b| (&a.pod, &a.container).cmp(&(&b.pod, &b.container)));
        links
    }

    /// Returns the logs of the pod; `None` if no console stream serves them.
    pub(crate) fn logs(&self) -> Option<&Arc<LogIndex>> {
        self.watched_pod.as_ref().map(|pod| &pod.logs)
    }

    /// Returns whether the container can be reached, as a value that changes. Starts to keep the container connected.
    pub(crate) fn reachability(&self, container: Option<&str>) -> watch::Receiver<Reachability> {
        self.container_of_pod(None, container);
        let reachability = self.watched_pod.as_ref().map(|pod| pod.reachability(container));
        reachability.unwrap_or_else(|| watch::channel(Reachability::Connecting).1)
    }

    /// Returns a follower of one log. `position`: where an earlier follower stopped; `None`: the beginning of the log.
    pub(crate) fn follow_log(&self, container: Option<&str>, id: &LogId, position: Option<Position>) -> LogFollower {
        LogFollower::new(id, position, self.reachability(container))
    }

    /// Returns whether the log exists at this moment; `None` if the agent does not answer.
    pub(crate) async fn log_exists(&self, container: Option<&str>, id: &LogId) -> Option<bool> {
        logs::exists(&self.reachability(container), id).await
    }

    /// Deletes the log in every container of this pod that was ever reached, and in its default container. Waits a limited time for a
    /// connection to each.
    pub(crate) async fn remove_log(&self, id: &LogId) {
        let Some(pod) = &self.watched_pod else { return };
        let reachabilities = {
            let containers = self.containers.lock().unwrap_or_else(PoisonError::into_inner);
            let reached = containers
                .iter()
                .filter(|(key, container)| key.container.is_none() || container.was_reached());
            reached
                .map(|(key, _)| pod.reachability(key.container.as_deref()))
                .collect()
        };
        logs::remove(reachabilities, id).await;
    }

    /// Sends the ids of all logs of this pod to the client, as one JSON array per line, first at once and then after
    /// every change. Ends when the client disconnects.
    pub(crate) async fn list_logs(&self, client: Client) -> Outcome {
        match self.logs() {
            Some(logs) => logs::list(logs, client).await,
            None => logs::unsupported(),
        }
    }

    /// Sends the content of one log to the client while the log grows. Ends when the log is deleted.
    pub(crate) async fn send_log(&self, id: &LogId, from: Option<request::Position>, client: Client) -> Outcome {
        let follow = |container: Option<&str>, position| self.follow_log(container, id, position);
        match self.logs() {
            Some(logs) => logs::send(logs, id, from, client, follow).await,
            None => logs::unsupported(),
        }
    }

    /// Deletes the log for a client.
    pub(crate) async fn delete_log(&self, id: &LogId) -> Outcome {
        if self.watched_pod.is_none() {
            return logs::unsupported();
        }
        self.remove_log(id).await;
        Outcome::done()
    }

    /// Waits until the calls of `background_calls` are done, at most for `limit`.
    pub(crate) async fn settle(&self) {
        self.background_calls.settle().await;
    }
}
