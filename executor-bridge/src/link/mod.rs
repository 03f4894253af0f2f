//! Byte pipes to an agent. Owns how one is dialled and when it is dead; knows nothing of what travels on it. `session`
//! dials, one pipe per container.

mod agent_binary;
mod direct;
mod exec_proxy;
mod exec_stream;
mod handle;
mod inject;
mod local;

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use podbridge_tls::{Identity, PublicKey};
use tokio::io::{AsyncRead, AsyncWrite};

use agent_binary::Agents;
pub(crate) use direct::Door;
pub(crate) use handle::{Handle, Monitored};

use crate::error::{Failure, Kind};
use crate::pod::{Fate, Place};
use crate::protocol::target::{LinkChoice, Target};

pub(crate) trait Pipe: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Pipe for T {}

/// A pipe on which an agent answers.
pub(crate) struct Dialed {
    pub(crate) pipe: Box<dyn Pipe>,
    pub(crate) handle: Handle,
    /// Where it leads; `None` for an agent that is no matter of Kubernetes.
    pub(crate) place: Option<Place>,
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

/// Whether links to the pod's own address are sought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Directly {
    Never,
    IfPossible,
    Always,
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
    /// For direct links; made when one is sought.
    identity: OnceLock<Identity>,
}

impl Linker {
    pub(crate) fn new(target: Arc<Target>, timeout: Duration, lease: Duration) -> Self {
        Self {
            target,
            timeout,
            lease,
            agents: Arc::default(),
            identity: OnceLock::new(),
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
        match self.target.link() {
            LinkChoice::Local => LinkName::Local,
            LinkChoice::Auto | LinkChoice::ExecProxy | LinkChoice::Direct => LinkName::ExecProxy,
        }
    }

    pub(crate) fn directly(&self) -> Directly {
        match self.target.link() {
            LinkChoice::Local | LinkChoice::ExecProxy => Directly::Never,
            LinkChoice::Auto => Directly::IfPossible,
            LinkChoice::Direct => Directly::Always,
        }
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

    pub(crate) async fn dial_direct(&self, door: &Door, limit: Duration) -> Result<Dialed, Failure> {
        direct::dial(self.identity()?, door, limit).await
    }

    /// What an agent has to know this bridge by before it is dialled directly.
    pub(crate) fn public_key(&self) -> Result<PublicKey, Failure> {
        Ok(self.identity()?.public_key().clone())
    }

    fn identity(&self) -> Result<&Identity, Failure> {
        if self.identity.get().is_none() {
            let made = Identity::new().map_err(|error| Failure::new(Kind::Internal, error.to_string()))?;
            // Another dial may have been first: its key is the one that counts.
            let _ = self.identity.set(made);
        }
        Ok(self.identity.get().expect("it was set a line before"))
    }

    /// What became of the place that a dead link led to, if it is known already.
    pub(crate) async fn fate(&self, place: &Place) -> Result<Fate, Failure> {
        exec_proxy::fate(&self.target, place, self.timeout).await
    }
}
