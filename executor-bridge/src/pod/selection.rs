//! Which pod `TYPE/NAME` means: the selector of the object, and the order of its pods. Both are those of `kubectl exec` (polymorphichelpers
//! and podutils.ActivePods, reversed): running before pending, ready before not ready, long ready before just ready. No I/O. Only `pod` uses it.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use serde_json::Value;

use crate::protocol::object_name::ObjectKind;

/// Returns the label selector of an object, as the API takes it in a query; an error text for an object without one.
pub(super) fn selector(kind: ObjectKind, object: &Value) -> Result<String, &'static str> {
    let selector = &object["spec"]["selector"];
    let (labels, expressions) = if kind.has_plain_selector() {
        (selector, &Value::Null)
    } else {
        (&selector["matchLabels"], &selector["matchExpressions"])
    };
    let labels: BTreeMap<&str, &str> = match labels.as_object() {
        Some(labels) => labels
            .iter()
            .filter_map(|(key, value)| Some((key.as_str(), value.as_str()?)))
            .collect(),
        None => BTreeMap::new(),
    };
    let mut terms: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    for expression in expressions.as_array().into_iter().flatten() {
        let key = expression["key"].as_str().unwrap_or_default();
        let values: Vec<&str> = expression["values"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let values = values.join(",");
        terms.push(match expression["operator"].as_str().unwrap_or_default() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            _ => return Err("its selector has an operator that podbridge does not know"),
        });
    }
    if terms.is_empty() {
        return Err("it has no selector, so it names no pods");
    }
    Ok(terms.join(","))
}

/// Returns the pod that `kubectl exec` chooses among the pods of an object.
pub(super) fn best(pods: Vec<Pod>) -> Option<Pod> {
    // The earlier of two equal pods wins; `min_by` returns the first.
    pods.into_iter().min_by(compare)
}

/// Orders two pods; the better pod is less.
fn compare(a: &Pod, b: &Pod) -> Ordering {
    rank(a).cmp(&rank(b))
}

type Rank = (bool, u8, bool, bool, Reverse<Option<Timestamp>>, Time, i32, i32, Time);

/// A time of which the earlier is better, and none is worst.
type Time = (bool, Option<Timestamp>);

fn earlier(time: Option<Timestamp>) -> Time {
    (time.is_none(), time)
}

fn rank(pod: &Pod) -> Rank {
    let spec = pod.spec.as_ref();
    let status = pod.status.as_ref();
    let is_assigned = spec
        .and_then(|spec| spec.node_name.as_ref())
        .is_some_and(|node| !node.is_empty());
    // The phases Succeeded and Failed rank as Pending, as in kubectl's map.
    let phase = match status.and_then(|status| status.phase.as_deref()) {
        Some("Running") => 0,
        Some("Unknown") => 1,
        _ => 2,
    };
    let conditions = status
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    let ready = conditions
        .iter()
        .find(|condition| condition.type_ == "Ready" && condition.status == "True");
    let ready_since = ready
        .and_then(|ready| ready.last_transition_time.as_ref())
        .map(|time| time.0);
    let deleted = pod.metadata.deletion_timestamp.as_ref().map(|time| time.0);
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let sidecars: Vec<&str> = spec
        .and_then(|spec| spec.init_containers.as_deref())
        .unwrap_or_default()
        .iter()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"))
        .map(|container| container.name.as_str())
        .collect();
    let regular = status
        .and_then(|status| status.container_statuses.as_deref())
        .unwrap_or_default();
    let init = status
        .and_then(|status| status.init_container_statuses.as_deref())
        .unwrap_or_default();
    let restarts = regular
        .iter()
        .map(|container| container.restart_count)
        .max()
        .unwrap_or(0);
    let sidecar_restarts = init
        .iter()
        .filter(|container| sidecars.contains(&container.name.as_str()));
    let sidecar_restarts = sidecar_restarts
        .map(|container| container.restart_count)
        .max()
        .unwrap_or(0);
    (
        !is_assigned,
        phase,
        ready.is_none(),
        deleted.is_some(),
        // The pod that was deleted later is the better one.
        Reverse(deleted),
        ready.map_or((false, None), |_| earlier(ready_since)),
        restarts,
        sidecar_restarts,
        earlier(created),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn selectors_are_written_as_the_api_takes_them() {
        use ObjectKind as K;
        for (kind, spec, expected) in [
            (
                K::Deployment,
                json!({"matchLabels": {"b": "2", "a": "1"}}),
                Ok("a=1,b=2"),
            ),
            (K::Service, json!({"app": "web"}), Ok("app=web")),
            (K::ReplicationController, json!({"app": "web"}), Ok("app=web")),
            (
                K::Job,
                json!({"matchLabels": {"a": "1"}, "matchExpressions": [
                    {"key": "b", "operator": "In", "values": ["x", "y"]},
                    {"key": "c", "operator": "NotIn", "values": ["z"]},
                    {"key": "d", "operator": "Exists"},
                    {"key": "e", "operator": "DoesNotExist"}]}),
                Ok("a=1,b in (x,y),c notin (z),d,!e"),
            ),
            (K::Service, Value::Null, Err("it has no selector, so it names no pods")),
        ] {
            let object = json!({"spec": {"selector": spec}});
            assert_eq!(
                selector(kind, &object).as_deref().map_err(|why| *why),
                expected,
                "{kind:?}"
            );
        }
    }

    fn pod(name: &str, more: Value) -> Pod {
        let mut pod = json!({"metadata": {"name": name, "creationTimestamp": "2026-01-02T00:00:00Z"},
            "spec": {"nodeName": "n", "containers": []}, "status": {"phase": "Running", "conditions": [
                {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-02T00:00:00Z"}]}});
        for (pointer, value) in more.as_object().unwrap() {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            let parent = pod.pointer_mut(parent).unwrap();
            parent[key] = value.clone();
        }
        serde_json::from_value(pod).unwrap()
    }

    /// Each row: what makes the second pod worse than an ordinary one, by kubectl's rules in their order.
    #[test]
    fn the_best_pod_comes_first() {
        let ready_at = |time: &str| json!([{"type": "Ready", "status": "True", "lastTransitionTime": time}]);
        let restarts = json!([{"name": "c", "restartCount": 3, "ready": true, "image": "", "imageID": ""}]);
        for worse in [
            json!({"/spec/nodeName": ""}),
            json!({"/status/phase": "Pending"}),
            json!({"/status/phase": "Unknown"}),
            json!({"/status/phase": "Failed"}),
            json!({"/status/conditions": []}),
            json!({"/metadata/deletionTimestamp": "2026-01-03T00:00:00Z"}),
            json!({"/status/conditions": ready_at("2026-01-04T00:00:00Z")}),
            json!({"/status/containerStatuses": restarts}),
            json!({"/metadata/creationTimestamp": "2026-01-04T00:00:00Z"}),
        ] {
            let pods = || (pod("good", json!({})), pod("bad", worse.clone()));
            let (good, bad) = pods();
            assert_eq!(best(vec![good, bad]).unwrap().metadata.name.unwrap(), "good", "{worse}");
            let (good, bad) = pods();
            assert_eq!(best(vec![bad, good]).unwrap().metadata.name.unwrap(), "good", "{worse}");
        }
        // A running pod that is not ready is worse than a ready one that is being deleted.
        let unready = pod("unready", json!({"/status/conditions": []}));
        let deleted = pod(
            "deleted",
            json!({"/metadata/deletionTimestamp": "2026-01-03T00:00:00Z"}),
        );
        assert_eq!(best(vec![unready, deleted]).unwrap().metadata.name.unwrap(), "deleted");
        assert!(best(Vec::new()).is_none());
    }
}
