//! Lists pods with what an inventory needs to know of each, without types of Kubernetes. Needs the right `list pods`
//! alone. `commands` calls it.

use std::collections::BTreeMap;

use k8s_openapi::List;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod};
use serde::Serialize;

use crate::error::{Failure, Kind};
use crate::pod::failure::ApiCall;
use crate::pod::{Access, encoded};

/// Pods of one answer; the server splits longer lists.
const PAGE: usize = 500;
/// More pods than any cluster has; a server that goes on is not believed.
const MAX_PODS: usize = 500_000;

/// Which pods are listed. The selectors have kubectl's syntax; the server reads them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct PodSelection<'a> {
    /// Of all namespaces, and not of the target's.
    pub(crate) all_namespaces: bool,
    pub(crate) labels: Option<&'a str>,
    pub(crate) fields: Option<&'a str>,
}

#[derive(Debug, Serialize, PartialEq, Eq)]
pub(crate) struct ListedPod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    uid: String,
    resource_version: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    /// Name of the node; `None` until the pod is scheduled.
    node: Option<String>,
    host_ip: Option<String>,
    pod_ip: Option<String>,
    pub(crate) phase: String,
    /// Containers that run for the pod's life: the regular ones, then native sidecars.
    pub(crate) containers: Vec<ListedContainer>,
}

#[derive(Debug, Serialize, PartialEq, Eq)]
pub(crate) struct ListedContainer {
    pub(crate) name: String,
    image: String,
    /// `Waiting`, `Running` or `Terminated`; `None` until the kubelet reports it.
    pub(crate) state: Option<&'static str>,
    ready: bool,
    restarts: i32,
    /// A native sidecar: an init container that is restarted always.
    sidecar: bool,
}

impl Access {
    /// Lists the pods of the target's namespace or of all; the pod of the target does not count. The order is the
    /// server's.
    pub(crate) async fn list(&self, selection: PodSelection<'_>) -> Result<Vec<ListedPod>, Failure> {
        let mut pods = Vec::new();
        let mut rest = String::new();
        loop {
            let path = path(&self.namespace, selection, &rest);
            let namespace = if selection.all_namespaces {
                "(all)"
            } else {
                &self.namespace
            };
            let call = ApiCall {
                pod: namespace,
                namespace,
                ..self.api_call("list", "pods")
            };
            let page: List<Pod> = self.get(&path, call).await?;
            pods.extend(page.items.into_iter().map(ListedPod::from));
            rest = page.metadata.continue_.unwrap_or_default();
            if rest.is_empty() {
                return Ok(pods);
            }
            if pods.len() >= MAX_PODS {
                let why = format!("the API server {} lists more than {MAX_PODS} pods", self.server);
                return Err(Failure::new(Kind::ApiUnreachable, why));
            }
        }
    }

    /// Returns the URL of the API server, for messages and names.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }
}

/// Returns the path of a page of the list; `rest` is the mark that the page before ended with.
fn path(namespace: &str, selection: PodSelection<'_>, rest: &str) -> String {
    let mut path = String::from("/api/v1/");
    if !selection.all_namespaces {
        path.extend(["namespaces/", &encoded(namespace).to_string(), "/"]);
    }
    path += &format!("pods?limit={PAGE}");
    let parameters = [
        ("labelSelector", selection.labels),
        ("fieldSelector", selection.fields),
        ("continue", Some(rest)),
    ];
    for (name, value) in parameters {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            path += &format!("&{name}={}", encoded(value));
        }
    }
    path
}

impl From<Pod> for ListedPod {
    fn from(pod: Pod) -> Self {
        let (metadata, status, spec) = (
            pod.metadata,
            pod.status.unwrap_or_default(),
            pod.spec.unwrap_or_default(),
        );
        let regular = spec.containers.into_iter().map(|container| (container, false));
        let sidecars = spec.init_containers.unwrap_or_default().into_iter();
        let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
        let statuses: Vec<_> = [status.container_statuses, status.init_container_statuses]
            .into_iter()
            .flatten()
            .flatten()
            .collect();
        let containers = regular.chain(sidecars.map(|container| (container, true)));
        Self {
            namespace: metadata.namespace.unwrap_or_default(),
            name: metadata.name.unwrap_or_default(),
            uid: metadata.uid.unwrap_or_default(),
            resource_version: metadata.resource_version.unwrap_or_default(),
            labels: metadata.labels.unwrap_or_default(),
            annotations: metadata.annotations.unwrap_or_default(),
            node: spec.node_name,
            host_ip: status.host_ip,
            pod_ip: status.pod_ip,
            phase: status.phase.unwrap_or_default(),
            containers: containers
                .map(|(container, sidecar)| {
                    let status = statuses.iter().find(|status| status.name == container.name);
                    ListedContainer {
                        state: status.and_then(state),
                        ready: status.is_some_and(|status| status.ready),
                        restarts: status.map_or(0, |status| status.restart_count),
                        name: container.name,
                        image: container.image.unwrap_or_default(),
                        sidecar,
                    }
                })
                .collect(),
        }
    }
}

fn state(status: &ContainerStatus) -> Option<&'static str> {
    match status.state.as_ref()? {
        ContainerState { running: Some(_), .. } => Some("Running"),
        ContainerState {
            terminated: Some(_), ..
        } => Some("Terminated"),
        // A state without any member means that the container waits.
        _ => Some("Waiting"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_what_is_selected() {
        let selection = |all_namespaces, labels, fields| PodSelection {
            all_namespaces,
            labels,
            fields,
        };
        let rows = [
            (selection(false, None, None), "", "namespaces/ci/pods?limit=500"),
            (selection(true, Some(""), None), "", "pods?limit=500"),
            (
                selection(true, Some("a=b,c notin (d)"), Some("status.phase=Running")),
                "x/y=",
                "pods?limit=500&labelSelector=a%3Db%2Cc%20notin%20%28d%29&fieldSelector=status.phase%3DRunning&continue=x%2Fy%3D",
            ),
        ];
        for (selection, rest, expected) in rows {
            assert_eq!(path("ci", selection, rest), format!("/api/v1/{expected}"));
        }
    }

    #[test]
    fn a_pod_is_listed_with_its_containers_and_native_sidecars() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"namespace": "ci", "name": "web", "uid": "u", "resourceVersion": "7", "labels": {"app": "web"}},
            "spec": {
                "nodeName": "node",
                "initContainers": [{"name": "setup", "image": "i"}, {"name": "git", "image": "g", "restartPolicy": "Always"}],
                "containers": [{"name": "main", "image": "m"}, {"name": "late"}],
            },
            "status": {
                "phase": "Running", "podIP": "10.0.0.1", "hostIP": "10.1.0.1",
                "containerStatuses": [
                    {"name": "main", "image": "m", "imageID": "", "ready": true, "restartCount": 2, "state": {"running": {}}},
                ],
                "initContainerStatuses": [
                    {"name": "setup", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
                     "state": {"terminated": {"exitCode": 0}}},
                    {"name": "git", "image": "g", "imageID": "", "ready": false, "restartCount": 0, "state": {}},
                ],
            },
        }))
        .unwrap();
        let listed = serde_json::to_value(ListedPod::from(pod)).unwrap();
        let container = |name, image, state: Option<&str>, ready, restarts, sidecar| {
            serde_json::json!({
                "name": name, "image": image, "state": state, "ready": ready, "restarts": restarts, "sidecar": sidecar
            })
        };
        assert_eq!(
            listed,
            serde_json::json!({
                "namespace": "ci", "name": "web", "uid": "u", "resource_version": "7", "labels": {"app": "web"},
                "annotations": {}, "node": "node", "host_ip": "10.1.0.1", "pod_ip": "10.0.0.1", "phase": "Running",
                "containers": [
                    container("main", "m", Some("Running"), true, 2, false),
                    container("late", "", None, false, 0, false),
                    container("git", "g", Some("Waiting"), false, 0, true),
                ],
            })
        );
    }
}
