//! One container: a line for commands and logs, and one for what is large, dialled with the first of it.

use std::sync::Arc;

use crate::connections::bulk_runtime::BulkRuntime;
use crate::connections::endpoint::Endpoint;
use crate::connections::lane_connection::LaneConnection;
use crate::connections::{Connection, Lane};
use crate::error::Failure;
use crate::link::{Linker, Start};
use crate::protocol::result::LinkStatus;

#[derive(Debug)]
pub(crate) struct Container {
    endpoint: Arc<Endpoint>,
    control: LaneConnection,
    bulk: LaneConnection,
}

impl Container {
    pub(crate) fn new(linker: Arc<Linker>, bulk: Arc<BulkRuntime>, name: Option<String>, pin_container: bool) -> Self {
        let endpoint = Arc::new(Endpoint {
            linker,
            bulk,
            name,
            dialed: Default::default(),
            direct: Default::default(),
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

    /// `None`: the pod's default.
    pub(crate) fn name(&self) -> Option<&str> {
        self.endpoint.name.as_deref()
    }

    /// Waits for the next dial that succeeds.
    pub(crate) async fn dialed_anew(&self) {
        self.endpoint.dialed.notified().await;
    }

    /// A connection that was alive a moment ago; an agent is started if there is none.
    pub(crate) async fn connection(&self, lane: Lane) -> Result<Arc<Connection>, Failure> {
        self.line(lane).dialed(Start::IfNeeded).await
    }

    /// The same, but no agent is started: the one that is sought runs, or is gone for ever.
    pub(crate) async fn reconnect(&self, lane: Lane) -> Result<Arc<Connection>, Failure> {
        self.line(lane).dialed(Start::Never).await
    }

    fn line(&self, lane: Lane) -> &LaneConnection {
        match lane {
            Lane::Control => &self.control,
            Lane::Bulk => &self.bulk,
        }
    }

    pub(crate) fn drop_links(&self) {
        self.control.drop_link();
        self.bulk.drop_link();
    }

    /// Of the lines that were needed.
    pub(crate) fn status(&self) -> Vec<LinkStatus> {
        let down = || LinkStatus {
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
