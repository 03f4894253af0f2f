# Copyright: podbridge contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter `pod_faults`: why pods are not ready, as one sentence, from what the API server says of them."""

from __future__ import annotations

DOCUMENTATION = r"""
name: pod_faults
short_description: Reason why pods are not ready
version_added: 0.1.0
author: podbridge contributors (!UNKNOWN)
description:
  - Returns one sentence that names each pod that is not ready, with the reason and with what helps.
options:
  _input:
    description: The pods in the short form of the role C(podbridge.zuul.pod); only their names count.
    type: list
    elements: dict
    required: true
  resources:
    description: The pods of the namespace, as M(kubernetes.core.k8s_info) returns them.
    type: list
    elements: dict
    required: true
  message:
    description: What the task said that made the pods.
    type: str
    default: ''
"""

EXAMPLES = r"""
- name: Say why
  ansible.builtin.fail:
    msg: "{{ pods | podbridge.zuul.pod_faults(found.resources) }}"
"""

RETURN = r"""
_value:
  description: The sentence.
  type: str
"""


# What helps, by the reason of Kubernetes.
WRONG_NAME = "check the name of the image"
NO_PULL = "check the name of the image, and pull_secrets if its registry has a password"
STEPS = {
    "ErrImagePull": NO_PULL,
    "ImagePullBackOff": NO_PULL,
    "InvalidImageName": WRONG_NAME,
    "ErrImageNeverPull": WRONG_NAME,
    "OOMKilled": "give the container more memory in limits",
    "Completed": "leave command out, so that the container waits for tasks",
    "Error": "its last output is in the log, above",
    "CrashLoopBackOff": "its last output is in the log, above",
    "CreateContainerConfigError": "create the object that the container names, or correct the name",
    "ContainerCreating": "its image is being pulled, or a volume of it does not exist",
}
NO_IMAGE_VOLUMES = "this cluster mounts no image volumes; take agent: init_container"
NO_VOLUME_TYPE = "must specify a volume type"
UNCHANGEABLE = "pod updates may not change"


def container_fault(status):
    """Returns the reason why a container is not ready, None if it is or has ended well."""
    state = status.get("state") or {}
    if waiting := state.get("waiting"):
        reason = waiting.get("reason")
        return with_step(": ".join(filter(None, [reason, waiting.get("message")])), reason)
    if ended := state.get("terminated"):
        code, reason = ended.get("exitCode"), ended.get("reason", "no reason")
        return with_step(f"ended with exit code {code} ({reason})", reason)
    return None if status.get("ready") else "is not ready; its readinessProbe does not succeed"


def with_step(fault, reason):
    """Returns the fault with what helps."""
    return f"{fault}; {STEPS[reason]}" if reason in STEPS else fault


def has_ended_well(status):
    """Returns whether an init container has done its work."""
    return ((status.get("state") or {}).get("terminated") or {}).get("exitCode") == 0


def pod_fault(resource):
    """Returns the reasons why a pod is not ready; an empty list if it is."""
    status = resource.get("status") or {}
    conditions = {each["type"]: each for each in status.get("conditions") or []}
    if conditions.get("Ready", {}).get("status") == "True":
        return []
    init = [each for each in status.get("initContainerStatuses") or [] if not has_ended_well(each)]
    faults = [(each["name"], container_fault(each)) for each in init + (status.get("containerStatuses") or [])]
    # A container that only waits for another one says nothing new.
    told = [(name, fault) for name, fault in faults if fault and fault != "PodInitializing"]
    reasons = [f"container {name} {fault}" for name, fault in told]
    if not reasons and conditions.get("PodScheduled", {}).get("status") == "False":
        why = conditions["PodScheduled"].get("message", "no reason")
        reasons.append(f"not scheduled: {why}; ask for less in requests, or for a larger node")
    return reasons or [status.get("message") or f"its phase is {status.get('phase', 'unknown')}"]


def mounts_image(pod, text):
    """Returns whether a fault is that of a cluster without image volumes."""
    return pod.get("agent") == "image_volume" and any(
        words in text for words in (NO_VOLUME_TYPE, "CreateContainerError", "RunContainerError", "ContainerCreating")
    )


def pod_faults(pods, resources, message=""):
    """Returns the sentence; `message` is the reason of pods that do not exist."""
    found = {each["metadata"]["name"]: each for each in resources}
    faults = []
    for pod in pods:
        name = pod["name"]
        if name in found:
            told = [f"pod {name}: {fault}" for fault in pod_fault(found[name])]
        else:
            told = [] if message else [f"pod {name}: it was deleted while the role waited for it"]
        if mounts_image(pod, "; ".join(told) or message):
            told = [f"pod {name}: {NO_IMAGE_VOLUMES}"]
        faults += told
    if UNCHANGEABLE in message:
        message += "; remove the pod first, or take another name"
    return "; ".join(faults) or message


class FilterModule:
    """The filter, for Ansible."""

    def filters(self):
        return {"pod_faults": pod_faults}
