//! Links: byte pipes to an agent. Owns how a link is dialled and when a link counts as dead. May not know what travels on a link.
//! `connections` calls it: one link for each container and lane.

mod dialed_link;
mod direct;
mod exec_proxy;
mod fate_questions;
mod handle;
mod local;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::OnceCell;

pub(crate) use crate::link::dialed_link::{AgentStart, DialedLink, LinkName, Pipe};
pub(crate) use crate::link::direct::{DirectAddress, dial as dial_direct};
use crate::link::exec_proxy::AgentBinaries;
#[cfg(any(test, fuzzing))]
pub(crate) use crate::link::exec_proxy::{check_channels, check_report};
use crate::link::fate_questions::FateQuestions;
pub(crate) use crate::link::handle::{Handle, MonitoredPipe};

use crate::backoff::Backoff;
use crate::error::{Failure, Kind, Retry};
use crate::pod::{self, Access, ApiUser, ContainerRef, Fate, Resolution};
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
    /// Reason why the stock kubectl is the client; unset while podbridge's own client is.
    kubectl_reason: OnceLock<String>,
    /// Directory of a build's kubeconfig: nothing outside of it is read or run. `None` outside of a build.
    confined_to: Option<PathBuf>,
    /// Client that finds the pod of an object, kept from one command to the next.
    resolver: tokio::sync::Mutex<Option<Arc<Access>>>,
    fate_questions: FateQuestions,
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
            kubectl_reason: OnceLock::new(),
            confined_to: None,
            resolver: tokio::sync::Mutex::default(),
            fate_questions: FateQuestions::default(),
        }
    }

    /// Refuses whatever the build's kubeconfig has beside tokens and inline certificates.
    pub(crate) fn confined(self) -> Self {
        let kubeconfig = self.target.kubeconfig.as_deref().map(Path::new);
        let confined_to = Some(
            kubeconfig
                .and_then(Path::parent)
                .unwrap_or(Path::new("/nonexistent"))
                .to_owned(),
        );
        Self { confined_to, ..self }
    }

    /// Returns the limit of each step of a dial.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Returns how long the user wants to wait until a pod runs (`--pod-running-timeout`); `None`: no such wish.
    pub(crate) fn pod_running_timeout(&self) -> Option<Duration> {
        pod::running_timeout(&self.target)
    }

    /// Returns for how long a dial that failed for this reason is tried again.
    pub(crate) fn retry_limit(&self, retry: Retry) -> Duration {
        match retry {
            Retry::PodStarting | Retry::NoPodYet | Retry::ContainerRestarting => {
                self.pod_running_timeout().unwrap_or(self.timeout)
            }
            Retry::Never | Retry::LinkCut | Retry::ServerBusy(_) | Retry::OtherClient => self.timeout,
        }
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
            LinkChoice::Kubectl => LinkName::Kubectl,
            _ if self.kubectl_reason.get().is_some() => LinkName::Kubectl,
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

    /// Returns the reason why kubectl carries the links; `None` if it does not, or was asked for.
    pub(crate) fn kubectl_reason(&self) -> Option<&str> {
        self.kubectl_reason.get().map(String::as_str)
    }

    /// Dials the agent in a container. `pod`: the pod that the target's object name means; `None`: the target names a pod.
    pub(crate) async fn dial(
        &self,
        pod: Option<&str>,
        container: Option<&str>,
        start: AgentStart,
    ) -> Result<DialedLink, Failure> {
        if self.first() == LinkName::Local {
            return local::dial(&self.target, self.timeout).await;
        }
        let own = match self.access().await {
            Ok(access) => self.dial_exec(access, pod, container, start).await,
            Err(failure) => Err(failure),
        };
        match own {
            Err(failure) if self.may_use_kubectl(&failure) => {
                let access = self.kubectl_instead(&failure)?;
                let tried = self.dial_exec(access, pod, container, start).await;
                self.note_kubectl(failure, tried)
            }
            own => own,
        }
    }

    async fn dial_exec(
        &self,
        access: Access,
        pod: Option<&str>,
        container: Option<&str>,
        start: AgentStart,
    ) -> Result<DialedLink, Failure> {
        let access = match pod {
            Some(pod) => access.with_pod(pod),
            None => access,
        };
        exec_proxy::dial(access, container, start, &self.binaries, self.timeout).await
    }

    /// Returns the pod that the target's object name means at this moment; `None` if the target names a pod. Tries again as long as that may
    /// help.
    pub(crate) async fn resolve_pod(&self) -> Result<Option<String>, Failure> {
        if !self.target.names_object() {
            return Ok(None);
        }
        let mut backoff = Backoff::new(self.timeout);
        let mut least_pause = Duration::ZERO;
        loop {
            backoff.pause_at_least(least_pause).await;
            match self.resolve_once().await {
                Err(Failure {
                    retry: retry @ (Retry::LinkCut | Retry::ServerBusy(_) | Retry::NoPodYet),
                    ..
                }) if backoff.has_time_for(retry.least_pause(), self.retry_limit(retry)) => {
                    least_pause = retry.least_pause();
                }
                resolved => return resolved,
            }
        }
    }

    async fn resolve_once(&self) -> Result<Option<String>, Failure> {
        // One caller at a time makes the client; the questions themselves may overlap.
        let access = {
            let mut kept = self.resolver.lock().await;
            match &*kept {
                Some(access) => access.clone(),
                None => kept.insert(Arc::new(self.access().await?)).clone(),
            }
        };
        let resolved = access.resolve().await;
        let Err(failure) = resolved else { return resolved };
        *self.resolver.lock().await = None;
        if self.may_use_kubectl(&failure) {
            let tried = self.kubectl_instead(&failure)?.resolve().await;
            return self.note_kubectl(failure, tried);
        }
        Err(failure)
    }

    /// Tells whether kubectl may succeed where podbridge's own client failed, and the target allows it.
    fn may_use_kubectl(&self, failure: &Failure) -> bool {
        failure.retry == Retry::OtherClient && self.choice() == LinkChoice::Auto && self.first() != LinkName::Kubectl
    }

    /// Makes kubectl the client for one attempt. The failure of the own client is the better one if there is no kubectl.
    fn kubectl_instead(&self, own: &Failure) -> Result<Access, Failure> {
        self.kubectl_access().map_err(|no_kubectl| Failure {
            message: format!("{} ({})", own.message, no_kubectl.message),
            ..own.clone()
        })
    }

    /// Notes that kubectl succeeded where the own client failed. If both failed, returns the failure that tells more.
    fn note_kubectl<T>(&self, own: Failure, tried: Result<T, Failure>) -> Result<T, Failure> {
        match tried {
            Ok(done) => {
                tracing::warn!(pod = self.pod(), reason = own.message, "kubectl carries the links");
                // Another dial may have set it at the same time.
                let _ = self.kubectl_reason.set(own.message);
                Ok(done)
            }
            Err(other) => {
                tracing::info!(pod = self.pod(), failure = %other, "kubectl cannot do it either");
                let same = [
                    Kind::ApiUnreachable,
                    Kind::Forbidden,
                    Kind::Unauthorized,
                    Kind::Kubeconfig,
                ];
                // What kubectl says of the pod and its container is news.
                Err(if same.contains(&other.kind) && other.retry == Retry::Never {
                    own
                } else {
                    other
                })
            }
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
        if self.first() == LinkName::Kubectl {
            return self.kubectl_access();
        }
        let resolution = self.resolved()?;
        let opened = match self.newer_token() {
            None => Access::open(&self.target, &resolution, self.timeout).await,
            Some(token) => Access::open(&self.target.with_token(token), &resolution, self.timeout).await,
        };
        // kubectl may take what podbridge's own client does not.
        opened.map_err(|failure| match failure.kind {
            Kind::Kubeconfig => failure.with_retry(Retry::OtherClient),
            _ => failure,
        })
    }

    /// Makes the stock kubectl the client.
    fn kubectl_access(&self) -> Result<Access, Failure> {
        let resolution = self.resolved()?;
        match self.newer_token() {
            None => Access::open_kubectl(&self.target, &resolution, self.timeout),
            Some(token) => Access::open_kubectl(&self.target.with_token(token), &resolution, self.timeout),
        }
    }

    fn resolved(&self) -> Result<Arc<Resolution>, Failure> {
        let mut kept = self.resolution.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(match &*kept {
            Some(resolution) => resolution.clone(),
            None => {
                let resolution = Resolution::read(&self.target)?;
                if let Some(directory) = &self.confined_to {
                    resolution.check_confined(directory)?;
                }
                kept.insert(Arc::new(resolution)).clone()
            }
        })
    }

    fn newer_token(&self) -> Option<String> {
        self.newer_token.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
    pub(crate) async fn fate(&self, pod: Option<&str>, container: &ContainerRef) -> Result<Fate, Failure> {
        let question = async {
            let access = self.access().await?;
            match pod {
                Some(pod) => access.with_pod(pod).fate(container).await,
                None => access.fate(container).await,
            }
        };
        self.fate_questions.ask(container, question).await
    }
}
