# Copyright: podbridge contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter `pod_manifests`: the manifests of pods from the short form of the role `pod`. It knows no cluster."""

from __future__ import annotations

DOCUMENTATION = r"""
name: pod_manifests
short_description: Manifests of pods from the short form of the role C(podbridge.zuul.pod)
version_added: 0.1.0
author: podbridge contributors (!UNKNOWN)
description:
  - Returns a list with the manifest of each pod, as Kubernetes takes it. The options of a pod are those of
    C(podbridge_pods) in the role C(podbridge.zuul.pod).
options:
  _input:
    description: The pods in the short form.
    type: list
    elements: dict
    required: true
  agent_image:
    description: The image C(podbridge-agent), for pods whose agent is not injected.
    type: str
    default: ''
  sidecar_image:
    description: The image C(podbridge-agent-git), for pods with a sidecar.
    type: str
    default: ''
"""

EXAMPLES = r"""
- name: Make a pod
  kubernetes.core.k8s:
    definition: "{{ [{'name': 'web', 'image': 'registry.example.com/python'}] | podbridge.zuul.pod_manifests }}"
"""

RETURN = r"""
_value:
  description: The manifests.
  type: list
  elements: dict
"""

from ansible.errors import AnsibleFilterError
from ansible.module_utils.parsing.convert_bool import boolean

# Ends at once when the pod is deleted: a shell that is PID 1 ignores TERM without a trap.
WAIT_FOR_EVER = ["/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"]
AGENT_DIRECTORY = "/opt/podbridge"
AGENTS = ("injected", "init_container", "image_volume")
# What Kubernetes or this filter would take for something else. Ansible's argument specification takes words for lists.
TYPES = {
    **dict.fromkeys("name host image agent workspace".split(), (str, "a word")),
    **dict.fromkeys("command pull_secrets groups".split(), (list, "a list")),
    **dict.fromkeys("manifest env cache requests limits labels".split(), (dict, "a dictionary")),
}
OPTIONS = frozenset([*TYPES, "sidecar"])


def checked(pod):
    """Returns a pod without empty options; an error names the pod and what is wrong with it, and no value."""
    if not isinstance(pod, dict) or not pod.get("name"):
        raise AnsibleFilterError("podbridge_pods has to be a list of dictionaries, each with a name")
    name, pod = pod["name"], {option: value for option, value in pod.items() if value is not None}
    if unknown := sorted(set(pod) - OPTIONS):
        raise AnsibleFilterError(f"pod {name}: unknown option {', '.join(unknown)}")
    for option, (kind, words) in TYPES.items():
        if not isinstance(pod.get(option, kind()), kind):
            raise AnsibleFilterError(f"pod {name}: {option} has to be {words}")
        if kind is list and any(isinstance(each, (list, dict)) or each is None for each in pod.get(option, [])):
            raise AnsibleFilterError(f"pod {name}: {option} has to be a list of words")
    try:
        pod["sidecar"] = boolean(pod.get("sidecar", False))
    except TypeError:
        raise AnsibleFilterError(f"pod {name}: sidecar has to be true or false") from None
    if bool(pod.get("image")) == bool(pod.get("manifest")):
        raise AnsibleFilterError(f"pod {name}: give either image or manifest")
    if (pod.get("agent") or AGENTS[0]) not in AGENTS:
        raise AnsibleFilterError(f"pod {name}: agent may be injected, init_container or image_volume")
    return pod


def of_user(pod):
    """Returns a manifest of the user's with the name of the pod."""
    manifest = {"apiVersion": "v1", "kind": "Pod", **pod["manifest"]}
    return {**manifest, "metadata": {**manifest.get("metadata", {}), "name": pod["name"]}}


def of_short_form(pod, agent_image, sidecar_image):
    """Returns the manifest of a pod in the short form."""
    agent, sidecar = pod.get("agent") or AGENTS[0], pod["sidecar"]
    if agent != "injected" and not agent_image:
        raise AnsibleFilterError(f"pod {pod['name']}: agent {agent} needs podbridge_pod_agent_image")
    if sidecar and not sidecar_image:
        raise AnsibleFilterError(f"pod {pod['name']}: the sidecar needs podbridge_pod_sidecar_image")
    volumes, mounts, shared, init = [], [], [], []
    if workspace := pod.get("workspace") or sidecar and "/workspace":
        volumes.append({"name": "workspace", "emptyDir": {}})
        shared.append({"name": "workspace", "mountPath": workspace})
    if cache := pod.get("cache"):
        volumes.append({"name": "cache", **cache})
        shared.append({"name": "cache", "mountPath": "/opt/git", "readOnly": True})
    if agent != "injected":
        mounts.append({"name": "podbridge", "mountPath": AGENT_DIRECTORY, "readOnly": True})
    if agent == "init_container":
        volumes.append({"name": "podbridge", "emptyDir": {}})
        mount = {"name": "podbridge", "mountPath": AGENT_DIRECTORY}
        init.append(
            {"name": "podbridge", "image": agent_image, "args": ["install", AGENT_DIRECTORY], "volumeMounts": [mount]}
        )
    elif agent == "image_volume":
        volumes.append({"name": "podbridge", "image": {"reference": agent_image, "pullPolicy": "IfNotPresent"}})
    serve = [f"{AGENT_DIRECTORY}/podbridge-agent", "serve"]
    main = {
        "name": "main",
        "image": pod["image"],
        "imagePullPolicy": "IfNotPresent",
        "command": list(map(str, pod.get("command") or (WAIT_FOR_EVER if agent == "injected" else serve))),
        "env": [{"name": name, "value": str(value)} for name, value in (pod.get("env") or {}).items()],
        "resources": {kind: pod[kind] for kind in ("requests", "limits") if pod.get(kind)},
        "volumeMounts": mounts + shared,
    }
    labels = {name: str(value) for name, value in (pod.get("labels") or {}).items()}
    helper = {"name": "sidecar", "image": sidecar_image, "imagePullPolicy": "IfNotPresent", "volumeMounts": shared}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": pod["name"],
            "labels": {"app.kubernetes.io/managed-by": "podbridge", **labels},
            "annotations": {"kubectl.kubernetes.io/default-container": "main"},
        },
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 1,
            "imagePullSecrets": [{"name": name} for name in pod.get("pull_secrets") or []],
            "volumes": volumes,
            "initContainers": init,
            "containers": [main, helper] if sidecar else [main],
        },
    }


def pod_manifests(pods, agent_image="", sidecar_image=""):
    """Returns the manifests of `pods`; an error names the pod and what is wrong with it."""
    manifests = []
    for pod in map(checked, pods):
        manifests.append(of_user(pod) if pod.get("manifest") else of_short_form(pod, agent_image, sidecar_image))
    return manifests


class FilterModule:
    """The filter, for Ansible."""

    def filters(self):
        return {"pod_manifests": pod_manifests}
