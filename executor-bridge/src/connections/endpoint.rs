//! The endpoint of one container: how its agent is dialled, and what the connections of both lanes share. `lane_connection` dials
//! through it; `upgrade` adds direct links to it.

use std::sync::{Arc, OnceLock};

use tokio::sync::Notify;

use crate::backoff::Backoff;
use crate::connections::bulk_runtime::BulkRuntime;
use crate::connections::direct_route::DirectRoutes;
use crate::connections::{Connection, Lane};
use crate::error::{Failure, Kind, Retry};
use crate::link::{Linker, Start};
use crate::protocol::target::LinkChoice;

/// What the lines of one container have in common.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) linker: Arc<Linker>,
    pub(crate) bulk: Arc<BulkRuntime>,
    /// `None`: the pod's default.
    pub(crate) name: Option<String>,
    /// Told at every dial that succeeds.
    pub(crate) dialed: Notify,
    pub(crate) direct: DirectRoutes,
    /// The machine that was reached first and none but that is reached again; `None`: whichever is there.
    pub(crate) pinned: Option<OnceLock<String>>,
}

impl Endpoint {
    pub(crate) async fn open(&self, lane: Lane, start: Start) -> Result<Connection, Failure> {
        if let Some(connection) = self.try_known_route(lane).await {
            return Ok(connection);
        }
        let linker = &self.linker;
        let mut backoff = Backoff::new(linker.timeout());
        let connection = loop {
            backoff.pause().await;
            let opened = match linker.dial(self.name.as_deref(), start).await {
                Ok(dialed) => Connection::open(dialed, lane, linker.timeout()).await,
                Err(failure) => Err(failure),
            };
            match opened {
                Err(failure) if failure.retry == Retry::LinkCut && !backoff.is_over() => {}
                // Zuul starts with a pod as soon as it has its name.
                Err(failure) if failure.retry == Retry::PodStarting && self.pinned.is_some() && !backoff.is_over() => {}
                opened => break opened?,
            }
        };
        let connection = match &self.pinned {
            Some(machine) => check_pinned(connection, machine, linker)?,
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

/// A container that was restarted is empty: what was prepared in it is gone, and nothing may run there as if it were not.
fn check_pinned(connection: Connection, machine: &OnceLock<String>, linker: &Linker) -> Result<Connection, Failure> {
    if *machine.get_or_init(|| connection.container_identity()) == connection.container_identity() {
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
