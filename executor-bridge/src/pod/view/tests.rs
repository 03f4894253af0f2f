//! Tests of the view: a kind of pod or container is one row of a table.

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

fn waits(json: serde_json::Value, container: &str) -> Option<Retry> {
    view(json).container(Some(container)).err().map(|failure| failure.retry)
}

/// Each row: a pod, a container, and whether it is reached (`None`), or what another attempt waits for.
#[test]
fn every_container_that_kubectl_reaches_is_reached() {
    let running = serde_json::json!({"running": {}});
    let one = |name: &str, state: serde_json::Value| serde_json::json!([{"name": name, "containerID": "i", "restartCount": 0, "state": state, "ready": true, "image": "", "imageID": ""}]);
    let ended = |code: i32| serde_json::json!({"terminated": {"reason": "Error", "exitCode": code}});
    let crashed = |code: i32| {
        serde_json::json!({"state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
            "lastState": {"terminated": {"reason": "OOMKilled", "exitCode": code}}})
    };
    let policy = |policy: &str, status_of_b: serde_json::Value| {
        let mut pod = status(status_of_b);
        merge(&mut pod, serde_json::json!({"spec": {"restartPolicy": policy}}));
        pod
    };
    let sidecar = |state: serde_json::Value| {
        serde_json::json!({"spec": {"initContainers": [{"name": "side", "restartPolicy": "Always"}]},
            "status": {"initContainerStatuses": one("side", state)}})
    };
    for (what, json, container, expected) in [
        ("a sidecar", sidecar(running.clone()), "side", None),
        (
            "a sidecar that ended with success",
            sidecar(ended(0)),
            "side",
            Some(Retry::ContainerRestarting),
        ),
        (
            "an init container that runs",
            serde_json::json!({"spec": {"initContainers": [{"name": "prep"}]}, "status": {"phase": "Pending",
                "initContainerStatuses": one("prep", running.clone())}}),
            "prep",
            None,
        ),
        (
            "a container behind an init container",
            serde_json::json!({"status": {"phase": "Pending", "containerStatuses": one("a",
                serde_json::json!({"waiting": {"reason": "PodInitializing"}}))}}),
            "a",
            Some(Retry::PodStarting),
        ),
        (
            "an init container that ended with success",
            serde_json::json!({"spec": {"initContainers": [{"name": "prep"}]},
                "status": {"initContainerStatuses": one("prep", ended(0))}}),
            "prep",
            Some(Retry::Never),
        ),
        (
            "an init container that failed",
            serde_json::json!({"spec": {"initContainers": [{"name": "prep"}]}, "status": {"phase": "Pending",
                "initContainerStatuses": one("prep", ended(1))}}),
            "prep",
            Some(Retry::ContainerRestarting),
        ),
        (
            "an ephemeral container",
            serde_json::json!({"spec": {"ephemeralContainers": [{"name": "debug"}]},
                "status": {"ephemeralContainerStatuses": one("debug", running.clone())}}),
            "debug",
            None,
        ),
        (
            "an ephemeral container that ended",
            serde_json::json!({"spec": {"ephemeralContainers": [{"name": "debug"}]},
                "status": {"ephemeralContainerStatuses": one("debug", ended(1))}}),
            "debug",
            Some(Retry::Never),
        ),
        (
            "a pod that is being deleted",
            serde_json::json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
            "a",
            None,
        ),
        (
            "a container that ended in a pod that is being deleted",
            {
                let mut pod = status(serde_json::json!({"state": ended(1)}));
                merge(
                    &mut pod,
                    serde_json::json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
                );
                pod
            },
            "b",
            Some(Retry::Never),
        ),
        (
            "a crash with Always",
            policy("Always", serde_json::json!({"state": ended(1)})),
            "b",
            Some(Retry::ContainerRestarting),
        ),
        (
            "an end with Always",
            policy("Always", serde_json::json!({"state": ended(0)})),
            "b",
            Some(Retry::ContainerRestarting),
        ),
        (
            "a crash with OnFailure",
            policy("OnFailure", serde_json::json!({"state": ended(1)})),
            "b",
            Some(Retry::ContainerRestarting),
        ),
        (
            "an end with OnFailure",
            policy("OnFailure", serde_json::json!({"state": ended(0)})),
            "b",
            Some(Retry::Never),
        ),
        (
            "a crash with Never",
            policy("Never", serde_json::json!({"state": ended(1)})),
            "b",
            Some(Retry::Never),
        ),
        (
            "a crash loop",
            policy("Always", crashed(137)),
            "b",
            Some(Retry::ContainerRestarting),
        ),
        (
            "an image that cannot be pulled",
            status(serde_json::json!({"state": {"waiting": {"reason": "ImagePullBackOff"}}})),
            "b",
            Some(Retry::Never),
        ),
    ] {
        assert_eq!(waits(json, container), expected, "{what}");
    }
}

#[test]
fn an_end_belongs_to_the_run_that_had_its_id() {
    let container_ref = view(serde_json::json!({})).container(Some("b")).unwrap();
    let fate = |json| view(status(json)).fate(&container_ref);
    let oom = |id: &str| serde_json::json!({"terminated": {"reason": "OOMKilled", "exitCode": 137, "containerID": id}});
    // The kubelet backs off: the count of restarts is still the old one.
    let back_off =
        fate(serde_json::json!({"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": oom("y")}));
    assert!(matches!(back_off, Fate::OomKilled(_)));
    let restarted = serde_json::json!({"containerID": "z", "restartCount": 1, "state": {"running": {}}});
    let with_last = |id: &str| {
        let mut json = restarted.clone();
        merge(&mut json, serde_json::json!({"lastState": oom(id)}));
        json
    };
    assert!(matches!(fate(with_last("y")), Fate::OomKilled(_)));
    // The run after ours was killed; how ours ended is unknown.
    assert!(matches!(fate(with_last("z2")), Fate::ContainerEnded(why) if why.contains("restarted")));
}

#[test]
fn a_kill_for_memory_names_the_limit_that_was_reached() {
    let message = |container: &str, spec: serde_json::Value| {
        let json = serde_json::json!({"spec": spec});
        let view = view(json);
        let container = view.containers.iter().find(|found| found.name == container).unwrap();
        view.oom_message(container)
    };
    assert!(message("b", serde_json::json!({})).contains("its memory limit of 64 MiB"));
    let of_the_pod = serde_json::json!({"resources": {"limits": {"memory": "1Gi"}}});
    assert!(message("a", of_the_pod).contains("the pod reached its memory limit of 1024 MiB"));
    assert!(message("a", serde_json::json!({})).contains("memory of the node"));
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
    assert!(matches!(deleting, Fate::PodEnding(_)));
    let oom = serde_json::json!({"terminated": {"reason": "OOMKilled", "exitCode": 137}});
    let killed = fate(status(serde_json::json!({"state": oom})));
    assert!(matches!(killed, Fate::OomKilled(why) if why.contains("64 MiB")));
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
