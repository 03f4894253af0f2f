//! One container of the pod, with a control connection and a bulk connection; each is dialled on its first use. `session` and `recovery`
//! ask it for a connection.

use std::sync::Arc;

use crate::connections::bulk_runtime::BulkRuntime;
use crate::connections::endpoint::Endpoint;
use crate::connections::lane_connection::LaneConnection;
use crate::connections::{Connection, Lane};
use crate::error::Failure;
use crate::link::{AgentStart, Linker};
use crate::protocol::result::LinkStatus;

#[derive(Debug)]
pub(crate) struct Container {
    endpoint: Arc<Endpoint>,
    control: LaneConnection,
    bulk: LaneConnection,
}

impl Container {
    /// Makes a container of a pod. `pod`: the pod that the target's object name means; `None`: the target names a pod.
    pub(crate) fn new(
        linker: Arc<Linker>,
        bulk: Arc<BulkRuntime>,
        pod: Option<String>,
        name: Option<String>,
        pin_container: bool,
    ) -> Self {
        let endpoint = Arc::new(Endpoint {
            linker,
            bulk,
            pod,
            name,
            dialed: Default::default(),
            routes: Default::default(),
            pinned: pin_container.then(Default::default),
        });
        Self {
            control: LaneConnection::new(Lane::Control, endpoint.clone()),
            bulk: LaneConnection::new(Lane::Bulk, endpoint.clone()),
            endpoint,
        }
    }

    pub(crate) fn linker(&self) -> &Linker {
        &self.endpoint.linker
    }

    /// Returns the container's name as the client gave it; `None`: the pod's default container.
    pub(crate) fn name(&self) -> Option<&str> {
        self.endpoint.name.as_deref()
    }

    /// Returns the pod that the target's object name means; `None` if the target names a pod.
    pub(crate) fn pod(&self) -> Option<&str> {
        self.endpoint.pod.as_deref()
    }

    /// Waits for the next dial that succeeds.
    pub(crate) async fn wait_for_dial(&self) {
        // This container keeps the sender.
        let _ = self.endpoint.dialed.subscribe().changed().await;
    }

    /// Tells whether a dial has ever succeeded.
    pub(crate) fn was_reached(&self) -> bool {
        *self.endpoint.dialed.borrow() > 0
    }

    /// Returns a connection that was alive a moment ago. Starts an agent if there is none.
    pub(crate) async fn connection(&self, lane: Lane) -> Result<Arc<Connection>, Failure> {
        self.lane_connection(lane).connect(AgentStart::IfNeeded).await
    }

    /// Returns a connection like `connection`, but starts no agent: the caller needs an agent that was there before, and that one runs or
    /// is gone for ever.
    pub(crate) async fn reconnect(&self, lane: Lane) -> Result<Arc<Connection>, Failure> {
        self.lane_connection(lane).connect(AgentStart::Never).await
    }

    fn lane_connection(&self, lane: Lane) -> &LaneConnection {
        match lane {
            Lane::Control => &self.control,
            Lane::Bulk => &self.bulk,
        }
    }

    /// Ends the connections of both lanes.
    pub(crate) fn drop_links(&self) {
        self.control.drop_link();
        self.bulk.drop_link();
    }

    /// Returns the status of the control lane, and of the bulk lane if it was ever used.
    pub(crate) fn status(&self) -> Vec<LinkStatus> {
        let down = || LinkStatus {
            pod: self.endpoint.pod.clone(),
            container: self.endpoint.name.clone(),
            link: self.linker().first().as_str().into(),
            lane: Lane::Control.name().into(),
            state: "down".into(),
            agent: None,
            message: None,
        };
        let control = self.control.status().unwrap_or_else(down);
        [Some(control), self.bulk.status()].into_iter().flatten().collect()
    }
}
