//! One container: a line for commands and logs, and one for what is large, dialled with the first of it.

use std::sync::Arc;

use super::Connection;
use super::bulk::Bulk;
use super::connection::Lane;
use super::line::{Ends, Line};
use crate::error::Failure;
use crate::link::{Linker, Start};
use crate::protocol::result::LinkStatus;

#[derive(Debug)]
pub(super) struct Container {
    ends: Arc<Ends>,
    control: Line,
    bulk: Line,
}

impl Container {
    pub(super) fn new(linker: Arc<Linker>, bulk: Arc<Bulk>, name: Option<String>, one_machine: bool) -> Self {
        let ends = Arc::new(Ends {
            linker,
            bulk,
            name,
            dialed: Default::default(),
            direct: Default::default(),
            machine: one_machine.then(Default::default),
        });
        Self {
            control: Line::new(Lane::Control, ends.clone()),
            bulk: Line::new(Lane::Bulk, ends.clone()),
            ends,
        }
    }

    pub(super) fn linker(&self) -> &Linker {
        &self.ends.linker
    }

    /// `None`: the pod's default.
    pub(super) fn name(&self) -> Option<&str> {
        self.ends.name.as_deref()
    }

    /// Waits for the next dial that succeeds.
    pub(super) async fn dialed_anew(&self) {
        self.ends.dialed.notified().await;
    }

    /// A connection that was alive a moment ago; an agent is started if there is none.
    pub(super) async fn connection(&self, lane: Lane) -> Result<Arc<Connection>, Failure> {
        self.line(lane).dialed(Start::IfNeeded).await
    }

    /// The same, but no agent is started: the one that is sought runs, or is gone for ever.
    pub(super) async fn reconnect(&self, lane: Lane) -> Result<Arc<Connection>, Failure> {
        self.line(lane).dialed(Start::Never).await
    }

    fn line(&self, lane: Lane) -> &Line {
        match lane {
            Lane::Control => &self.control,
            Lane::Bulk => &self.bulk,
        }
    }

    pub(super) fn drop_links(&self) {
        self.control.drop_link();
        self.bulk.drop_link();
    }

    /// Of the lines that were needed.
    pub(super) fn status(&self) -> Vec<LinkStatus> {
        let down = || LinkStatus {
            container: self.ends.name.clone(),
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
