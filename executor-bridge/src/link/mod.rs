//! Links: byte pipes to an agent. Owns how a link is dialled and when a link counts as dead. May not know what travels on a link.
//! `connections` calls it: one link for each container and lane.

mod dialed_link;
mod direct;
mod exec_proxy;
mod handle;
mod local;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::OnceCell;

pub(crate) use crate::link::dialed_link::{AgentStart, DialedLink, LinkName, Pipe};
pub(crate) use crate::link::direct::{DirectAddress, dial as dial_direct};
use crate::link::exec_proxy::AgentBinaries;
pub(crate) use crate::link::handle::{Handle, MonitoredPipe};

use crate::error::Failure;
use crate::pod::{Access, ApiUser, ContainerRef, Fate, Resolution};
use crate::protocol::target::{LinkChoice, Target};

/// Dials the containers of one target.
#[derive(Debug)]
pub(crate) struct Linker {
    target: Arc<Target>,
    timeout: Duration,
    lease: Duration,
    binaries: Arc<AgentBinaries>,
    /// `None` until a dial needs it, and for the local link.
    resolution: Mutex<Option<Arc<Resolution>>>,
    /// The newest token of the user, if another one than the target's.
    newer_token: Mutex<Option<String>>,
    /// The user of the target's token as the API server knows it; asked for when another token comes.
    user: OnceCell<ApiUser>,
}

impl Linker {
    pub(crate) fn new(target: Arc<Target>, timeout: Duration, lease: Duration) -> Self {
        Self {
            target,
            timeout,
            lease,
            binaries: Arc::default(),
            resolution: Mutex::default(),
            newer_token: Mutex::default(),
            user: OnceCell::new(),
        }
    }

    /// Returns the limit of each step of a dial.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Returns the time for which a link may be down before the operations on it count as lost. The agent keeps an exec without a
    /// connection for the same time.
    pub(crate) fn lease(&self) -> Duration {
        self.lease
    }

    /// Returns the name of the link that is dialled first.
    pub(crate) fn first(&self) -> LinkName {
        match self.choice() {
            LinkChoice::Local => LinkName::Local,
            LinkChoice::Auto | LinkChoice::ExecProxy | LinkChoice::Direct => LinkName::ExecProxy,
        }
    }

    pub(crate) fn choice(&self) -> LinkChoice {
        self.target.link()
    }

    /// Returns the name of the pod, for messages.
    pub(crate) fn pod(&self) -> &str {
        self.target.pod_name()
    }

    pub(crate) async fn dial(&self, container: Option<&str>, start: AgentStart) -> Result<DialedLink, Failure> {
        match self.first() {
            LinkName::Local => local::dial(&self.target, self.timeout).await,
            _ => exec_proxy::dial(self.access().await?, container, start, &self.binaries, self.timeout).await,
        }
    }

    /// Returns whether a fresh bridge would reach the same pod with the same rights.
    pub(crate) fn is_current(&self) -> bool {
        let kept = self.resolution.lock().unwrap_or_else(PoisonError::into_inner).clone();
        kept.is_none_or(|resolution| resolution.is_current(&self.target))
    }

    /// Makes a client of the API server that the target resolved to when it was first needed. A failure to resolve it is not kept, as the
    /// user may mend the files.
    async fn access(&self) -> Result<Access, Failure> {
        let resolution = {
            let mut kept = self.resolution.lock().unwrap_or_else(PoisonError::into_inner);
            match &*kept {
                Some(resolution) => resolution.clone(),
                None => kept.insert(Arc::new(Resolution::read(&self.target)?)).clone(),
            }
        };
        let newer_token = self.newer_token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match newer_token {
            None => Access::open(&self.target, &resolution, self.timeout).await,
            Some(token) => Access::open(&self.target.with_token(token), &resolution, self.timeout).await,
        }
    }

    /// Takes a token for later dials if it is another one of the same user. Returns whether it is.
    pub(crate) async fn admit_token(&self, token: String) -> Result<bool, Failure> {
        let user = self
            .user
            .get_or_try_init(async || self.access().await?.user().await)
            .await?;
        let resolution = self.resolution.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(resolution) = resolution else { return Ok(false) };
        let other = Access::open(&self.target.with_token(token.clone()), &resolution, self.timeout).await?;
        let same = other.user().await? == *user;
        if same {
            *self.newer_token.lock().unwrap_or_else(PoisonError::into_inner) = Some(token);
        }
        Ok(same)
    }

    /// Asks the API what became of the container at the other end of a dead link.
    pub(crate) async fn fate(&self, container: &ContainerRef) -> Result<Fate, Failure> {
        self.access().await?.fate(container).await
    }
}
