//! The endpoint of one container: what the connections of both lanes share, and how a new connection is opened. Keeps no connection:
//! `lane_connection` opens its connections here and keeps them.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;

use crate::backoff::Backoff;
use crate::connections::bulk_runtime::BulkRuntime;
use crate::connections::direct_route::DirectRoutes;
use crate::connections::{Connection, Lane, upgrade};
use crate::error::{Failure, Kind, Retry};
use crate::link::{AgentStart, Linker};
use crate::protocol::target::LinkChoice;

#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) linker: Arc<Linker>,
    pub(crate) bulk: Arc<BulkRuntime>,
    /// Pod that the target's object name meant when this endpoint was made; `None`: the target names a pod.
    pub(crate) pod: Option<String>,
    /// Name of the container; `None`: the pod's default container.
    pub(crate) name: Option<String>,
    /// Number of dials that have succeeded.
    pub(crate) dialed: watch::Sender<u64>,
    pub(crate) routes: DirectRoutes,
    /// Identity of the container that was reached first: another one is refused. `None`: every container of this name is accepted.
    pub(crate) pinned: Option<OnceLock<String>>,
}

impl Endpoint {
    /// Opens a connection: on the direct route if one is known, else on the link that the target chooses.
    pub(crate) async fn open(&self, lane: Lane, start: AgentStart) -> Result<Connection, Failure> {
        let linker = &self.linker;
        if let Some(connection) = upgrade::try_known_route(&self.routes, linker.pod(), lane).await {
            return Ok(connection);
        }
        let mut backoff = Backoff::new(linker.timeout());
        let mut least_pause = Duration::ZERO;
        let connection = loop {
            backoff.pause_at_least(least_pause).await;
            let opened = match linker.dial(self.pod.as_deref(), self.name.as_deref(), start).await {
                Ok(dialed) => Connection::open(dialed, lane, linker.timeout()).await,
                Err(failure) => Err(failure),
            };
            match opened {
                Err(failure)
                    if self.may_retry(failure.retry, start)
                        && backoff.has_time_for(failure.retry.least_pause(), linker.retry_limit(failure.retry)) =>
                {
                    least_pause = failure.retry.least_pause();
                    tracing::info!(pod = linker.pod(), %failure, "dialling again");
                }
                opened => break opened?,
            }
        };
        let connection = match &self.pinned {
            Some(pinned) => check_pinned(connection, pinned, linker)?,
            None => connection,
        };
        match linker.choice() {
            LinkChoice::Direct => {
                let direct = upgrade::find_direct(&self.routes, linker.pod(), &connection).await;
                direct.map_err(|failure| Failure {
                    message: format!(
                        "{}; without `--link direct`, podbridge uses the API server",
                        failure.message
                    ),
                    ..failure
                })
            }
            LinkChoice::Auto | LinkChoice::ExecProxy | LinkChoice::Kubectl | LinkChoice::Local => Ok(connection),
        }
    }

    fn may_retry(&self, retry: Retry, start: AgentStart) -> bool {
        match retry {
            Retry::LinkCut | Retry::ServerBusy(_) | Retry::NoPodYet => true,
            // Zuul uses a pod as soon as the pod has a name, before its containers run. Only Zuul pins its containers. Others say it with
            // --pod-running-timeout; without this option kubectl does not wait either.
            Retry::PodStarting => self.pinned.is_some() || self.linker.pod_running_timeout().is_some(),
            // A pinned container never comes back, and neither does its agent (ADR 8).
            Retry::ContainerRestarting => self.pinned.is_none() && start == AgentStart::IfNeeded,
            Retry::Never | Retry::OtherClient => false,
        }
    }
}

/// Refuses a container that is not the pinned one. A restarted container has lost the files that the build prepared in it, so no command
/// may run there.
fn check_pinned(connection: Connection, pinned: &OnceLock<String>, linker: &Linker) -> Result<Connection, Failure> {
    if *pinned.get_or_init(|| connection.container_identity()) == connection.container_identity() {
        return Ok(connection);
    }
    connection.handle.end("it leads to another container");
    let name = connection
        .container
        .as_ref()
        .map_or("-", |container| &container.container);
    Err(Failure::new(
        Kind::PodNotRunning,
        format!(
            "container {name} of pod {} was restarted during the build, and the files of the build in it are lost; \
             `kubectl describe pod` shows the reason of the restart",
            linker.pod()
        ),
    ))
}
