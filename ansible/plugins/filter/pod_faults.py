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
  - Returns one sentence that names each pod that is not ready, with the reason.
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


def container_fault(status):
    """Returns the reason why a container is not ready, None if it is or has ended well."""
    state = status.get("state") or {}
    if waiting := state.get("waiting"):
        return ": ".join(filter(None, [waiting.get("reason"), waiting.get("message")]))
    if ended := state.get("terminated"):
        code = ended.get("exitCode")
        return f"ended with exit code {code} ({ended.get('reason', 'no reason')})" if code else None
    return None if status.get("ready") else "is not ready"


def pod_fault(resource):
    """Returns the reasons why a pod is not ready; an empty list if it is."""
    status = resource.get("status") or {}
    conditions = {each["type"]: each for each in status.get("conditions") or []}
    if conditions.get("Ready", {}).get("status") == "True":
        return []
    containers = (status.get("initContainerStatuses") or []) + (status.get("containerStatuses") or [])
    faults = [(each["name"], container_fault(each)) for each in containers]
    # A container that only waits for another one says nothing new.
    told = [(name, fault) for name, fault in faults if fault and fault != "PodInitializing"]
    reasons = [f"container {name} {fault}" for name, fault in told]
    if not reasons and conditions.get("PodScheduled", {}).get("status") == "False":
        reasons.append(f"not scheduled: {conditions['PodScheduled'].get('message', 'no reason')}")
    return reasons or [status.get("message") or f"its phase is {status.get('phase', 'unknown')}"]


def pod_faults(pods, resources, message=""):
    """Returns the sentence; `message` is the reason of pods that do not exist."""
    found = {each["metadata"]["name"]: each for each in resources}
    faults = []
    for name in [pod["name"] for pod in pods]:
        if name in found:
            faults += [f"pod {name}: {fault}" for fault in pod_fault(found[name])]
    return "; ".join(faults) or message or "the pods could not be made"


class FilterModule:
    """The filter, for Ansible."""

    def filters(self):
        return {"pod_faults": pod_faults}
