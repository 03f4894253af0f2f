//! View of a pod: the parts of the API's answer that podbridge needs, and the decisions on them: the container that is meant, whether it
//! can be reached, and its fate. Does no I/O. Only `pod` uses it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod};

use crate::error::{Failure, Kind, Retry};
use crate::pod::Storage;
use crate::pod::container_ref::{ContainerRef, Fate};

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
    containers: Vec<Container>,
    /// The pod's own address; `None` for a pod in its node's network.
    address: Option<IpAddr>,
}

#[derive(Debug, Default, Clone)]
struct Container {
    name: String,
    memory_limit: Option<String>,
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
}

fn termination(reason: Option<String>, code: i32) -> Termination {
    Termination {
        reason: reason.unwrap_or_else(|| "ended".into()),
        code,
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
        let statuses = status.container_statuses.unwrap_or_default();
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
        let containers = spec.containers.into_iter().map(|spec| {
            let limit = |resources: k8s_openapi::api::core::v1::ResourceRequirements| {
                resources
                    .limits
                    .and_then(|limits| limits.get("memory").map(|quantity| quantity.0.clone()))
            };
            let memory_limit = spec.resources.and_then(limit);
            let status = statuses.iter().find(|status| status.name == spec.name);
            container(spec.name, memory_limit, status.cloned().unwrap_or_default())
        });
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
            containers: containers.collect(),
            address: address.filter(|address| own_network && !is_odd(address)),
        }
    }
}

fn container(name: String, memory_limit: Option<String>, status: ContainerStatus) -> Container {
    let state = |state: ContainerState| match state {
        ContainerState {
            terminated: Some(ended),
            ..
        } => State::Terminated(termination(ended.reason, ended.exit_code)),
        ContainerState {
            waiting: Some(waiting), ..
        } => State::Waiting(joined(waiting.reason, waiting.message).unwrap_or_else(|| "waiting".into())),
        ContainerState { running: Some(_), .. } => State::Running,
        ContainerState { .. } => State::Unknown,
    };
    let last = status.last_state.and_then(|last| last.terminated);
    Container {
        name,
        memory_limit,
        id: status.container_id,
        restarts: status.restart_count,
        state: status.state.map(state).unwrap_or_default(),
        last: last.map(|ended| termination(ended.reason, ended.exit_code)),
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

    fn reachable(&self, container: &Container) -> Result<(), Failure> {
        let reason = self
            .reason
            .as_ref()
            .map_or(String::new(), |reason| format!(" ({reason})"));
        let not_running = |what: String| Failure::new(Kind::PodNotRunning, what);
        let starting = |what: String| not_running(what).with_retry(Retry::PodStarting);
        let pod = &self.name;
        if self.deleting {
            return Err(not_running(format!(
                "pod {pod} is being deleted{reason}; start a new one"
            )));
        }
        match (self.phase.as_str(), &container.state) {
            ("Succeeded", _) => Err(not_running(format!("pod {pod} is Completed{reason}; start a new one"))),
            ("Failed", _) => Err(not_running(format!("pod {pod} has Failed{reason}; start a new one"))),
            (phase, State::Waiting(why)) => {
                let what = format!(
                    "container {} of pod {pod} is waiting: {why}{reason}; see `kubectl describe pod`",
                    container.name
                );
                // Every other reason means that something went wrong.
                let is_start = ["PodInitializing", "ContainerCreating", "waiting"].contains(&why.as_str());
                Err(if is_start && phase == "Pending" {
                    starting(what)
                } else {
                    not_running(what)
                })
            }
            (_, State::Terminated(ended)) => Err(not_running(format!(
                "container {} of pod {pod} has ended: {} with exit code {}",
                container.name, ended.reason, ended.code
            ))),
            ("Running", _) | (_, State::Running) => Ok(()),
            (phase, State::Unknown) => {
                let phase = if phase.is_empty() { "Pending" } else { phase };
                Err(starting(format!(
                    "pod {pod} is {phase}{reason}; wait until it runs, or see `kubectl describe pod`"
                )))
            }
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
        let ended = match &container.state {
            State::Terminated(ended) => Some(ended),
            State::Waiting(_) | State::Running | State::Unknown => container.last.as_ref().filter(|_| replaced),
        };
        match ended {
            // The runtime reports OOMKilled for every container in which any process was killed for memory; 137 says that the first
            // process was.
            Some(ended) if ended.reason == "OOMKilled" && ended.code == 137 => {
                let limit = container.memory_limit.as_deref().unwrap_or("unknown");
                return Fate::OomKilled(format!(
                    "container {} of pod {pod} reached its memory limit ({limit}) and was killed; raise the limit",
                    container.name
                ));
            }
            _ => {}
        }
        if self.phase == "Failed" {
            return Fate::PodGone(format!("pod {pod} has failed{reason}"));
        }
        if self.deleting {
            return Fate::PodGone(format!("pod {pod} is being deleted{reason}"));
        }
        match ended {
            Some(ended) => Fate::ContainerEnded(format!(
                "container {} of pod {pod} ended under the operation: {} with exit code {}",
                container.name, ended.reason, ended.code
            )),
            None if replaced => Fate::ContainerEnded(format!(
                "container {} of pod {pod} was restarted under the operation",
                container.name
            )),
            None => Fate::Unchanged,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(json: serde_json::Value) -> View {
        let mut pod = serde_json::json!({
            "metadata": {"name": "web", "namespace": "ci", "uid": "1"},
            "spec": {"containers": [{"name": "a"}, {"name": "b", "resources": {"limits": {"memory": "64Mi"}}}]},
            "status": {"phase": "Running", "containerStatuses": [
                {"name": "a", "containerID": "x", "restartCount": 0, "state": {"running": {}},
                 "ready": true, "image": "", "imageID": ""},
                {"name": "b", "containerID": "y", "restartCount": 0, "state": {"running": {}},
                 "ready": true, "image": "", "imageID": ""}]}
        });
        merge(&mut pod, json);
        View::from(serde_json::from_value::<Pod>(pod).unwrap())
    }

    fn merge(into: &mut serde_json::Value, from: serde_json::Value) {
        match (into, from) {
            (serde_json::Value::Object(into), serde_json::Value::Object(from)) => {
                for (key, value) in from {
                    merge(into.entry(key).or_insert(serde_json::Value::Null), value);
                }
            }
            (into, from) => *into = from,
        }
    }

    fn status(state: serde_json::Value) -> serde_json::Value {
        let mut status = serde_json::json!({
            "name": "b", "containerID": "y", "restartCount": 0, "ready": false, "image": "", "imageID": ""});
        merge(&mut status, state);
        serde_json::json!({"status": {"containerStatuses": [status]}})
    }

    #[test]
    fn the_container_is_chosen_as_kubectl_does() {
        let plain = view(serde_json::json!({}));
        assert_eq!(plain.container(None).unwrap().container, "a");
        assert_eq!(plain.container(Some("b")).unwrap().container_id, "y");
        let missing = plain.container(Some("c")).unwrap_err();
        assert_eq!(missing.kind, Kind::ContainerNotFound);
        assert!(missing.message.contains("a, b"), "{missing}");
        let annotated = |name| view(serde_json::json!({"metadata": {"annotations": {DEFAULT_CONTAINER: name}}}));
        assert_eq!(annotated("b").container(None).unwrap().container, "b");
        assert_eq!(annotated("b").container(Some("a")).unwrap().container, "a");
        assert_eq!(annotated("z").container(None).unwrap().container, "a");
    }

    #[test]
    fn only_an_address_of_its_own_is_a_pod_s_address() {
        let address = |json| {
            view(json)
                .container(None)
                .unwrap()
                .address
                .map(|address| address.to_string())
        };
        assert_eq!(address(serde_json::json!({})), None);
        let of = |ip| address(serde_json::json!({"status": {"podIP": ip}}));
        assert_eq!(of("10.0.0.7").as_deref(), Some("10.0.0.7"));
        assert_eq!(of("fd00::7").as_deref(), Some("fd00::7"));
        for odd in ["127.0.0.1", "::1", "0.0.0.0", "224.0.0.1", "fe80::1%eth0", "web", ""] {
            assert_eq!(of(odd), None, "{odd}");
        }
        let of_the_node = serde_json::json!({"spec": {"hostNetwork": true}, "status": {"podIP": "10.0.0.7"}});
        assert_eq!(address(of_the_node), None);
    }

    #[test]
    fn a_windows_pod_is_refused() {
        for spec in [
            serde_json::json!({"os": {"name": "windows"}}),
            serde_json::json!({"nodeSelector": {"kubernetes.io/os": "windows"}}),
        ] {
            let failure = view(serde_json::json!({"spec": spec})).container(None).unwrap_err();
            assert_eq!(failure.kind, Kind::Windows);
        }
        let linux = view(serde_json::json!({"spec": {"os": {"name": "linux"}}}));
        assert!(linux.container(None).is_ok());
    }

    #[test]
    fn a_container_that_does_not_run_is_refused_with_its_reason() {
        let refused = |json, container| {
            let failure = view(json).container(Some(container)).unwrap_err();
            assert_eq!(failure.kind, Kind::PodNotRunning);
            failure.message
        };
        let pending = serde_json::json!({"status": {"phase": "Pending", "containerStatuses": null, "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}]}});
        assert!(refused(pending, "a").contains("Pending (Unschedulable: 0/3 nodes)"));
        let completed = serde_json::json!({"status": {"phase": "Succeeded"}});
        assert!(refused(completed, "a").contains("Completed"));
        let waiting = status(serde_json::json!({"state": {"waiting": {"reason": "ImagePullBackOff"}}}));
        assert!(refused(waiting, "b").contains("ImagePullBackOff"));
        let ended = status(serde_json::json!({"state": {"terminated": {"reason": "Error", "exitCode": 3}}}));
        assert!(refused(ended, "b").contains("exit code 3"));
    }

    #[test]
    fn the_fate_of_a_container_follows_from_the_pod() {
        let container_ref = view(serde_json::json!({})).container(Some("b")).unwrap();
        let fate = |json| view(json).fate(&container_ref);
        assert_eq!(fate(serde_json::json!({})), Fate::Unchanged);
        let replaced = fate(serde_json::json!({"metadata": {"uid": "2"}}));
        assert!(matches!(replaced, Fate::PodGone(_)));
        let evicted = fate(serde_json::json!({"status": {"phase": "Failed", "reason": "Evicted", "message": "disk"}}));
        assert!(matches!(evicted, Fate::PodGone(why) if why.contains("Evicted: disk")));
        let deleting = fate(serde_json::json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}));
        assert!(matches!(deleting, Fate::PodGone(_)));
        let oom = serde_json::json!({"terminated": {"reason": "OOMKilled", "exitCode": 137}});
        let killed = fate(status(serde_json::json!({"state": oom})));
        assert!(matches!(killed, Fate::OomKilled(why) if why.contains("64Mi")));
        let again = status(
            serde_json::json!({"containerID": "z", "restartCount": 1, "state": {"running": {}},
            "lastState": oom}),
        );
        assert!(matches!(fate(again), Fate::OomKilled(_)));
        let old = status(serde_json::json!({"state": {"running": {}}, "lastState": oom}));
        assert_eq!(fate(old), Fate::Unchanged, "the memory kill was before the present run");
        let child = status(serde_json::json!({"state": {"terminated": {"reason": "OOMKilled", "exitCode": 0}}}));
        assert!(
            matches!(fate(child), Fate::ContainerEnded(_)),
            "a child was killed, perhaps long ago"
        );
        let error = status(serde_json::json!({"state": {"terminated": {"reason": "Error", "exitCode": 137}}}));
        assert!(matches!(fate(error), Fate::ContainerEnded(why) if why.contains("137")));
    }
}
