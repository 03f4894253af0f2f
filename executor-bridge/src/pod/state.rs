//! What a pod's status says: whether a container can be used, and what became of one that was. Pure; `access` asks the API.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod};

use crate::error::{Failure, Kind};

const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// Where a link leads, to be recognised later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) pod_uid: String,
    pub(crate) container: String,
    pub(crate) container_id: String,
    pub(crate) restarts: i32,
}

/// What became of a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    /// As far as the API knows.
    Unchanged,
    PodGone(String),
    ContainerEnded(String),
    OomKilled(String),
}

/// `namespace/name`, for messages.
pub(super) fn full_name(pod: &Pod) -> String {
    let part = |part: &Option<String>| part.clone().unwrap_or_default();
    format!("{}/{}", part(&pod.metadata.namespace), part(&pod.metadata.name))
}

/// The container meant by `wanted`, if it runs.
pub(super) fn usable(pod: &Pod, wanted: Option<&str>) -> Result<Place, Failure> {
    let name = full_name(pod);
    let container = choose(pod, wanted)?;
    let not_running = |why: String| {
        Failure::new(
            Kind::PodNotRunning,
            format!("pod {name} cannot run anything: {why}; look at `kubectl describe pod`"),
        )
    };
    let status = pod.status.clone().unwrap_or_default();
    let phase = status.phase.unwrap_or_default();
    if let "Succeeded" | "Failed" = phase.as_str() {
        let why = status
            .reason
            .or(status.message)
            .map(|why| format!(" ({why})"))
            .unwrap_or_default();
        return Err(not_running(format!("it has ended with phase {phase}{why}")));
    }
    if pod.metadata.deletion_timestamp.is_some() {
        return Err(not_running("it is being deleted".into()));
    }
    let Some(state) = container_status(pod, &container) else {
        return Err(not_running(format!(
            "it is {phase}, container {container} has not been started yet"
        )));
    };
    let running = state.state.as_ref().is_some_and(|state| state.running.is_some());
    if !running {
        return Err(not_running(format!(
            "container {container} is {}",
            describe(state.state.as_ref())
        )));
    }
    Ok(Place {
        pod_uid: pod.metadata.uid.clone().unwrap_or_default(),
        container,
        container_id: state.container_id.clone().unwrap_or_default(),
        restarts: state.restart_count,
    })
}

fn choose(pod: &Pod, wanted: Option<&str>) -> Result<String, Failure> {
    let spec = pod.spec.clone().unwrap_or_default();
    let names: Vec<String> = spec.containers.into_iter().map(|container| container.name).collect();
    let annotated = pod
        .metadata
        .annotations
        .as_ref()
        .and_then(|all| all.get(DEFAULT_CONTAINER));
    let chosen = match (wanted, annotated) {
        (Some(wanted), _) => wanted,
        (None, Some(annotated)) if names.contains(annotated) => annotated,
        (None, _) => names.first().map(String::as_str).unwrap_or_default(),
    };
    match names.iter().any(|name| name == chosen) {
        true => Ok(chosen.to_owned()),
        false => Err(Failure::new(
            Kind::ContainerNotFound,
            format!(
                "pod {} has no container {chosen:?}; it has {}",
                full_name(pod),
                names.join(", ")
            ),
        )),
    }
}

fn container_status<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStatus> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.iter().find(|status| status.name == container)
}

fn describe(state: Option<&ContainerState>) -> String {
    let Some(state) = state else {
        return "in no known state".into();
    };
    if let Some(waiting) = &state.waiting {
        let message = waiting
            .message
            .as_ref()
            .map(|message| format!(": {message}"))
            .unwrap_or_default();
        return format!(
            "waiting ({}{message})",
            waiting.reason.as_deref().unwrap_or("no reason given")
        );
    }
    if let Some(ended) = &state.terminated {
        let reason = ended.reason.as_deref().unwrap_or("no reason given");
        return format!("terminated ({reason}, exit code {})", ended.exit_code);
    }
    "running".into()
}

/// What the pod says of a place that a dead link led to; `None`: there is no such pod any more.
pub(super) fn fate(pod: Option<&Pod>, name: &str, place: &Place) -> Fate {
    let Some(pod) = pod else {
        return Fate::PodGone(format!("pod {name} was deleted while it was in use"));
    };
    if pod.metadata.uid.as_deref() != Some(&place.pod_uid) {
        return Fate::PodGone(format!("pod {name} was deleted and replaced while it was in use"));
    }
    let status = pod.status.clone().unwrap_or_default();
    if status.phase.as_deref() == Some("Failed") && status.reason.is_some() {
        let why = status.message.or(status.reason).unwrap_or_default();
        return Fate::PodGone(format!("pod {name} ended: {why}"));
    }
    let container = &place.container;
    if let Some(state) = container_status(pod, container) {
        let moved_on =
            state.restart_count > place.restarts || state.container_id.as_deref() != Some(&place.container_id);
        let now = state.state.as_ref().and_then(|state| state.terminated.as_ref());
        let last = state.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        if let Some(ended) = now.or(last.filter(|_| moved_on)) {
            let reason = ended.reason.as_deref().unwrap_or("no reason given");
            if reason == "OOMKilled" {
                return Fate::OomKilled(format!(
                    "container {container} of pod {name} exceeded its memory limit{} and was killed; raise the limit",
                    memory_limit(pod, container)
                ));
            }
            return Fate::ContainerEnded(format!(
                "container {container} of pod {name} ended ({reason}, exit code {}) while it was in use",
                ended.exit_code
            ));
        }
        if moved_on {
            return Fate::ContainerEnded(format!(
                "container {container} of pod {name} was restarted while it was in use"
            ));
        }
    }
    match pod.metadata.deletion_timestamp {
        Some(_) => Fate::PodGone(format!("pod {name} is being deleted")),
        None => Fate::Unchanged,
    }
}

fn memory_limit(pod: &Pod, container: &str) -> String {
    let spec = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.containers.iter().find(|c| c.name == container));
    let limits = spec.and_then(|c| c.resources.as_ref()?.limits.as_ref());
    limits
        .and_then(|limits| limits.get("memory"))
        .map(|limit| format!(" of {}", limit.0))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(annotations: &Value, status: &Value) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "ci", "uid": "u1", "annotations": annotations},
            "spec": {"containers": [
                {"name": "first"},
                {"name": "second", "resources": {"limits": {"memory": "64Mi"}}},
            ]},
            "status": status,
        }))
        .unwrap()
    }

    fn running(restarts: i32, id: &str) -> Value {
        let container = |name| {
            json!({"name": name, "restartCount": restarts, "containerID": id, "image": "", "imageID": "",
                "ready": true, "state": {"running": {}}})
        };
        json!({"phase": "Running", "containerStatuses": [container("first"), container("second")]})
    }

    #[test]
    fn the_container_is_the_wanted_the_annotated_or_the_first() {
        let status = running(0, "c1");
        let chosen =
            |annotations: Value, wanted| usable(&pod(&annotations, &status), wanted).map(|place| place.container);
        assert_eq!(chosen(json!({}), None).unwrap(), "first");
        assert_eq!(chosen(json!({DEFAULT_CONTAINER: "second"}), None).unwrap(), "second");
        assert_eq!(
            chosen(json!({DEFAULT_CONTAINER: "second"}), Some("first")).unwrap(),
            "first"
        );
        let missing = chosen(json!({}), Some("third")).unwrap_err();
        assert_eq!(missing.kind, Kind::ContainerNotFound);
        assert!(missing.message.contains("first, second"), "{missing}");
    }

    #[test]
    fn a_pod_that_cannot_run_anything_says_why() {
        let refused = |status: Value| {
            let failure = usable(&pod(&json!({}), &status), None).unwrap_err();
            assert_eq!(failure.kind, Kind::PodNotRunning);
            failure.message
        };
        assert!(refused(json!({"phase": "Pending"})).contains("Pending"));
        assert!(refused(json!({"phase": "Succeeded"})).contains("Succeeded"));
        let waiting = json!({"name": "first", "restartCount": 0, "image": "", "imageID": "", "ready": false,
            "state": {"waiting": {"reason": "ImagePullBackOff"}}});
        assert!(refused(json!({"phase": "Pending", "containerStatuses": [waiting]})).contains("ImagePullBackOff"));
    }

    #[test]
    fn fates_are_told_apart() {
        let place = usable(&pod(&json!({}), &running(0, "c1")), Some("second")).unwrap();
        let fate_of = |status: &Value| fate(Some(&pod(&json!({}), status)), "ci/web", &place);
        assert_eq!(fate_of(&running(0, "c1")), Fate::Unchanged);
        assert!(matches!(fate(None, "ci/web", &place), Fate::PodGone(_)));
        assert!(matches!(fate_of(&running(1, "c2")), Fate::ContainerEnded(_)));
        let mut killed = running(1, "c2");
        killed["containerStatuses"][1]["lastState"] = json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}});
        let Fate::OomKilled(message) = fate_of(&killed) else {
            panic!()
        };
        assert!(message.contains("64Mi"), "{message}");
        let evicted = json!({"phase": "Failed", "reason": "Evicted", "message": "low on memory"});
        let Fate::PodGone(message) = fate_of(&evicted) else {
            panic!()
        };
        assert!(message.contains("low on memory"), "{message}");
    }
}
