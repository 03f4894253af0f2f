//! Byte pipes to an agent. Owns how one is dialled and when it is dead; knows nothing of what travels on it. `session`
//! dials, one pipe per container.

mod direct;
mod exec_proxy;
mod handle;
mod local;

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};

pub(crate) use crate::link::direct::{Door, dial as dial_direct};
use crate::link::exec_proxy::Agents;
pub(crate) use crate::link::handle::{Handle, Monitored};

use crate::error::Failure;
use crate::pod::{ContainerRef, Fate};
use crate::protocol::target::{LinkChoice, Target};

pub(crate) trait Pipe: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Pipe for T {}

/// A pipe on which an agent answers.
pub(crate) struct Dialed {
    pub(crate) pipe: Box<dyn Pipe>,
    pub(crate) handle: Handle,
    /// Where it leads; `None` for an agent that is no matter of Kubernetes.
    pub(crate) place: Option<ContainerRef>,
    pub(crate) link: LinkName,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkName {
    Local,
    ExecProxy,
    Direct,
}

impl LinkName {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            LinkName::Local => "local",
            LinkName::ExecProxy => "exec-proxy",
            LinkName::Direct => "direct",
        }
    }
}

/// May an agent be started or brought for the dial?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    IfNeeded,
    Never,
}

/// Dials the containers of one target.
#[derive(Debug)]
pub(crate) struct Linker {
    target: Arc<Target>,
    timeout: Duration,
    lease: Duration,
    agents: Arc<Agents>,
}

impl Linker {
    pub(crate) fn new(target: Arc<Target>, timeout: Duration, lease: Duration) -> Self {
        Self {
            target,
            timeout,
            lease,
            agents: Arc::default(),
        }
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// How long a link may be down before what runs behind it counts as lost: as long as the agent keeps it then.
    pub(crate) fn lease(&self) -> Duration {
        self.lease
    }

    /// Of the link that is dialled first.
    pub(crate) fn first(&self) -> LinkName {
        match self.choice() {
            LinkChoice::Local => LinkName::Local,
            LinkChoice::Auto | LinkChoice::ExecProxy | LinkChoice::Direct => LinkName::ExecProxy,
        }
    }

    pub(crate) fn choice(&self) -> LinkChoice {
        self.target.link()
    }

    /// For messages: which pod.
    pub(crate) fn pod(&self) -> &str {
        self.target.pod_name()
    }

    pub(crate) async fn dial(&self, container: Option<&str>, start: Start) -> Result<Dialed, Failure> {
        match self.first() {
            LinkName::Local => local::dial(&self.target, self.timeout).await,
            _ => exec_proxy::dial(&self.target, container, start, &self.agents, self.timeout).await,
        }
    }

    /// What became of the place that a dead link led to, if it is known already.
    pub(crate) async fn fate(&self, place: &ContainerRef) -> Result<Fate, Failure> {
        exec_proxy::fate(&self.target, place, self.timeout).await
    }
}
