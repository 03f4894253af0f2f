//! View of a pod: the parts of the API's answer that podbridge needs, and the decisions on them: the container that is meant, whether it
//! can be reached, and its fate. Does no I/O. Only `pod` uses it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateTerminated, ContainerStatus, Pod, ResourceRequirements,
};

use crate::error::{Failure, Kind, Retry};
use crate::pod::container_ref::{ContainerRef, Fate};
use crate::pod::{Storage, storage};

/// Node label in a pod's nodeSelector; it tells the system of a pod without `spec.os`.
const OS_LABEL: &str = "kubernetes.io/os";
/// Annotation of a static pod: the hash of its configuration, which is its UID on the node.
const STATIC_POD_UID: &str = "kubernetes.io/config.hash";
/// Annotation that names the container which kubectl takes without `-c`.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

#[derive(Debug, Default, Clone)]
pub(super) struct View {
    /// `namespace/name`, for messages.
    name: String,
    uid: String,
    /// UID that the node uses for a static pod.
    static_pod_uid: Option<String>,
    deleting: bool,
    windows: bool,
    phase: String,
    /// Reason of the phase, such as `Evicted`, with its text; else the reason why the scheduler found no node.
    reason: Option<String>,
    default_container: Option<String>,
    /// Storage of each container, by its name.
    pub(super) storage: BTreeMap<String, Storage>,
    /// Memory limit of the pod as a whole.
    memory_limit: Option<String>,
    /// Containers, then init containers, then ephemeral ones: the order in which kubectl looks for a name.
    containers: Vec<Container>,
    /// The pod's own address; `None` for a pod in its node's network.
    address: Option<IpAddr>,
}

#[derive(Debug, Default, Clone)]
struct Container {
    name: String,
    memory_limit: Option<String>,
    restart_policy: RestartPolicy,
    /// Id that the container runtime gave; absent until the kubelet reports it.
    id: Option<String>,
    restarts: i32,
    state: State,
    /// End of the run before the present one.
    last: Option<Termination>,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
enum State {
    #[default]
    Unknown,
    Waiting(String),
    Running,
    Terminated(Termination),
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Termination {
    reason: String,
    code: i32,
    /// Id of the container that ended.
    id: Option<String>,
}

impl From<ContainerStateTerminated> for Termination {
    fn from(ended: ContainerStateTerminated) -> Self {
        Self {
            reason: ended.reason.unwrap_or_else(|| "ended".into()),
            code: ended.exit_code,
            id: ended.container_id,
        }
    }
}

/// When the kubelet starts a container again.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum RestartPolicy {
    Always,
    OnFailure,
    #[default]
    Never,
}

impl RestartPolicy {
    /// Returns the policy of that name; `Always`, which is the default of Kubernetes, if there is no name.
    fn new(name: Option<&str>) -> Self {
        match name {
            None | Some("Always") => Self::Always,
            Some("OnFailure") => Self::OnFailure,
            Some(_) => Self::Never,
        }
    }

    /// Returns the policy for an init container without a policy of its own: it is never repeated after a success.
    fn of_init(self) -> Self {
        match self {
            Self::Always | Self::OnFailure => Self::OnFailure,
            Self::Never => Self::Never,
        }
    }

    fn restarts_after(self, code: i32) -> bool {
        match self {
            Self::Always => true,
            Self::OnFailure => code != 0,
            Self::Never => false,
        }
    }
}

fn joined(reason: Option<String>, message: Option<String>) -> Option<String> {
    let text: Vec<_> = [reason, message]
        .into_iter()
        .flatten()
        .filter(|text| !text.is_empty())
        .collect();
    (!text.is_empty()).then(|| text.join(": "))
}

impl From<Pod> for View {
    fn from(pod: Pod) -> Self {
        let metadata = pod.metadata;
        let mut annotations = metadata.annotations.unwrap_or_default();
        let status = pod.status.unwrap_or_default();
        let statuses: Vec<_> = [
            status.container_statuses,
            status.init_container_statuses,
            status.ephemeral_container_statuses,
        ]
        .into_iter()
        .flatten()
        .flatten()
        .collect();
        let unscheduled = status
            .conditions
            .unwrap_or_default()
            .into_iter()
            .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
            .and_then(|condition| joined(condition.reason, condition.message));
        let spec = pod.spec.unwrap_or_default();
        let storage = Storage::of_pod(&spec);
        let own_network = spec.host_network != Some(true);
        let address: Option<IpAddr> = status.pod_ip.and_then(|address| address.parse().ok());
        // An API server may say anything: an address that means this host or a group of hosts is no pod's.
        let is_odd = |address: &IpAddr| address.is_loopback() || address.is_unspecified() || address.is_multicast();
        let os_label = spec.node_selector.as_ref().and_then(|labels| labels.get(OS_LABEL));
        let os = spec.os.as_ref().map(|os| &os.name).or(os_label);
        let windows = os.is_some_and(|name| name == "windows");
        let pod_policy = RestartPolicy::new(spec.restart_policy.as_deref());
        let own_policy = |name: Option<&str>, inherited| name.map_or(inherited, |name| RestartPolicy::new(Some(name)));
        let container = |name: String, resources, restart_policy| {
            let status = statuses.iter().find(|status| status.name == name);
            Container {
                memory_limit: memory_limit(resources),
                restart_policy,
                ..container(name, status.cloned().unwrap_or_default())
            }
        };
        let regular = spec.containers.into_iter().map(|spec| {
            let policy = own_policy(spec.restart_policy.as_deref(), pod_policy);
            container(spec.name, spec.resources, policy)
        });
        let init = spec.init_containers.unwrap_or_default().into_iter().map(|spec| {
            let policy = own_policy(spec.restart_policy.as_deref(), pod_policy.of_init());
            container(spec.name, spec.resources, policy)
        });
        let ephemeral = spec.ephemeral_containers.unwrap_or_default().into_iter();
        let ephemeral = ephemeral.map(|spec| container(spec.name, spec.resources, RestartPolicy::Never));
        let containers = regular.chain(init).chain(ephemeral);
        Self {
            name: format!(
                "{}/{}",
                metadata.namespace.unwrap_or_default(),
                metadata.name.unwrap_or_default()
            ),
            uid: metadata.uid.unwrap_or_default(),
            static_pod_uid: annotations.remove(STATIC_POD_UID),
            storage,
            deleting: metadata.deletion_timestamp.is_some(),
            windows,
            phase: status.phase.unwrap_or_default(),
            reason: joined(status.reason, status.message).or(unscheduled),
            default_container: annotations.remove(DEFAULT_CONTAINER),
            memory_limit: memory_limit(spec.resources),
            containers: containers.collect(),
            address: address.filter(|address| own_network && !is_odd(address)),
        }
    }
}

fn memory_limit(resources: Option<ResourceRequirements>) -> Option<String> {
    resources?.limits?.remove("memory").map(|quantity| quantity.0)
}

/// Makes a container from its status; its limit and policy are in the specification.
fn container(name: String, status: ContainerStatus) -> Container {
    let state = |state: ContainerState| match state {
        ContainerState {
            terminated: Some(ended),
            ..
        } => State::Terminated(ended.into()),
        ContainerState {
            waiting: Some(waiting), ..
        } => State::Waiting(joined(waiting.reason, waiting.message).unwrap_or_else(|| "waiting".into())),
        ContainerState { running: Some(_), .. } => State::Running,
        ContainerState { .. } => State::Unknown,
    };
    let last = status.last_state.and_then(|last| last.terminated);
    Container {
        name,
        memory_limit: None,
        restart_policy: RestartPolicy::default(),
        id: status.container_id,
        restarts: status.restart_count,
        state: status.state.map(state).unwrap_or_default(),
        last: last.map(Termination::from),
    }
}

impl View {
    /// Returns the container that is meant; an error if it is unknown or cannot be reached now.
    pub(super) fn container(&self, wanted: Option<&str>) -> Result<ContainerRef, Failure> {
        if self.windows {
            return Err(Failure::new(
                Kind::Windows,
                format!(
                    "pod {} runs Windows, for which podbridge has no agent; use stock kubectl",
                    self.name
                ),
            ));
        }
        let container = self.choose(wanted)?;
        self.reachable(container)?;
        Ok(ContainerRef {
            pod_uid: self.uid.clone(),
            static_pod_uid: self.static_pod_uid.clone(),
            container: container.name.clone(),
            container_id: container.id.clone().unwrap_or_default(),
            restarts: container.restarts,
            address: self.address,
        })
    }

    fn choose(&self, wanted: Option<&str>) -> Result<&Container, Failure> {
        let named = |name: &str| self.containers.iter().find(|container| container.name == name);
        // kubectl ignores an annotation that names no container of the pod.
        let found = match wanted {
            Some(name) => named(name),
            None => {
                let annotated = self.default_container.as_deref().and_then(named);
                // The first one is a container that is neither an init nor an ephemeral container.
                annotated.or_else(|| self.containers.first())
            }
        };
        found.ok_or_else(|| {
            let known: Vec<_> = self
                .containers
                .iter()
                .map(|container| container.name.as_str())
                .collect();
            Failure::new(
                Kind::ContainerNotFound,
                format!(
                    "pod {} has no container {:?}; it has {}",
                    self.name,
                    wanted.unwrap_or_default(),
                    known.join(", ")
                ),
            )
        })
    }

    /// Checks that the container can be reached now. A container runs in a pod that is being deleted until the kubelet ends it, and an
    /// init container runs in a pod that is Pending.
    fn reachable(&self, container: &Container) -> Result<(), Failure> {
        let reason = self
            .reason
            .as_ref()
            .map_or(String::new(), |reason| format!(" ({reason})"));
        let (pod, name) = (&self.name, &container.name);
        let not_running = |what: String| Failure::new(Kind::PodNotRunning, what);
        match self.phase.as_str() {
            "Succeeded" => {
                return Err(not_running(format!("pod {pod} is Completed{reason}; start a new one")));
            }
            "Failed" => return Err(not_running(format!("pod {pod} has Failed{reason}; start a new one"))),
            _ => {}
        }
        if container.state == State::Running || container.state == State::Unknown && self.phase == "Running" {
            return Ok(());
        }
        if self.deleting {
            return Err(not_running(format!(
                "pod {pod} is being deleted{reason}, and its container {name} does not run; start a new one"
            )));
        }
        let restarting = |ended: &Termination| {
            let what = format!(
                "container {name} of pod {pod} has ended ({} with exit code {}), and the kubelet has not started it again yet; see \
                 `kubectl describe pod`",
                ended.reason, ended.code
            );
            Err(not_running(what).with_retry(Retry::ContainerRestarting))
        };
        match &container.state {
            State::Waiting(why) => {
                let what =
                    format!("container {name} of pod {pod} is waiting: {why}{reason}; see `kubectl describe pod`");
                // Every other reason means that something went wrong.
                let is_start = ["PodInitializing", "ContainerCreating", "waiting"].contains(&why.as_str());
                match &container.last {
                    Some(ended) if is_start || why.starts_with("CrashLoopBackOff") => restarting(ended),
                    None if is_start && self.phase == "Pending" => {
                        Err(not_running(what).with_retry(Retry::PodStarting))
                    }
                    Some(_) | None => Err(not_running(what)),
                }
            }
            State::Terminated(ended) if container.restart_policy.restarts_after(ended.code) => restarting(ended),
            State::Terminated(ended) => Err(not_running(format!(
                "container {name} of pod {pod} has ended: {} with exit code {}",
                ended.reason, ended.code
            ))),
            State::Running | State::Unknown => {
                let phase = if self.phase.is_empty() { "Pending" } else { &self.phase };
                let what = format!("pod {pod} is {phase}{reason}; wait until it runs, or see `kubectl describe pod`");
                Err(not_running(what).with_retry(Retry::PodStarting))
            }
        }
    }

    /// Says which memory limit a container that was killed for memory had reached, as far as the API tells.
    fn oom_message(&self, container: &Container) -> String {
        let (pod, name) = (&self.name, &container.name);
        match (&container.memory_limit, &self.memory_limit) {
            (Some(limit), _) => format!(
                "container {name} of pod {pod} reached its memory limit of {} and was killed with all that ran in it; raise the limit",
                storage::shown(limit)
            ),
            (None, Some(limit)) => format!(
                "container {name} of pod {pod} was killed for memory: the pod reached its memory limit of {}; raise the limit",
                storage::shown(limit)
            ),
            (None, None) => format!(
                "container {name} of pod {pod} was killed for memory: neither it nor the pod has a memory limit, so the memory of the node was \
                 used up; see `kubectl describe node`"
            ),
        }
    }

    /// Tells the fate of a container, as far as the API knows it now.
    pub(super) fn fate(&self, container_ref: &ContainerRef) -> Fate {
        let pod = &self.name;
        let reason = self
            .reason
            .as_ref()
            .map_or(String::new(), |reason| format!(" ({reason})"));
        if self.uid != container_ref.pod_uid {
            return Fate::PodGone(format!("pod {pod} was deleted and another one has its name"));
        }
        let Some(container) = self
            .containers
            .iter()
            .find(|container| container.name == container_ref.container)
        else {
            return Fate::Unchanged;
        };
        let replaced = container.restarts != container_ref.restarts
            || container
                .id
                .as_ref()
                .is_some_and(|id| *id != container_ref.container_id);
        let present = match &container.state {
            State::Terminated(ended) => Some(ended),
            State::Waiting(_) | State::Running | State::Unknown => None,
        };
        // An end belongs to the run that had its id. A runtime that reports no id: the present end, or the last one of a restarted container.
        let is_ours = |ended: &&Termination, without_id: bool| match &ended.id {
            Some(id) => *id == container_ref.container_id,
            None => without_id,
        };
        let last = container.last.as_ref();
        let ended = present
            .filter(|ended| is_ours(ended, true))
            .or_else(|| last.filter(|ended| is_ours(ended, replaced)));
        match ended {
            // The runtime reports OOMKilled for every container in which any process was killed for memory; 137 says that the first
            // process was.
            Some(ended) if ended.reason == "OOMKilled" && ended.code == 137 => {
                return Fate::OomKilled(self.oom_message(container));
            }
            _ => {}
        }
        if self.phase == "Failed" {
            return Fate::PodGone(format!("pod {pod} has failed{reason}"));
        }
        if self.deleting {
            let why = format!("pod {pod} is being deleted{reason}");
            return if container.state == State::Running && !replaced {
                Fate::PodEnding(why)
            } else {
                Fate::PodGone(why)
            };
        }
        match ended {
            Some(ended) => Fate::ContainerEnded(format!(
                "container {} of pod {pod} ended during the operation: {} with exit code {}",
                container.name, ended.reason, ended.code
            )),
            None if replaced => Fate::ContainerEnded(format!(
                "container {} of pod {pod} was restarted during the operation",
                container.name
            )),
            None => Fate::Unchanged,
        }
    }
}

#[cfg(test)]
mod tests;
