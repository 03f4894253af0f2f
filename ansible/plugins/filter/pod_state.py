# Copyright: podbridge contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter `pod_state`: whether pods are ready, may become ready, or never will."""

from __future__ import annotations

DOCUMENTATION = r"""
name: pod_state
short_description: Whether pods are ready
version_added: 0.1.0
author: podbridge contributors (!UNKNOWN)
description:
  - Returns V(ready) if all pods are ready, V(failed) if one of them will never be, V(gone) if one of them does not
    exist, and V(waiting) else, also if the API server did not answer.
options:
  _input:
    description: The pods in the short form of the role C(podbridge.zuul.pod); only their names count.
    type: list
    elements: dict
    required: true
  answer:
    description: The answer of M(kubernetes.core.k8s_info) for the pods; a call that failed has one, too.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Wait for my pods
  kubernetes.core.k8s_info:
    kind: Pod
    namespace: ci
  register: found
  until: pods | podbridge.zuul.pod_state(found) != 'waiting'
"""

RETURN = r"""
_value:
  description: One of ready, failed, gone and waiting.
  type: str
"""

# Reasons that time does not mend. A pull that fails may succeed later, unless the registry does not know the image.
PERMANENT = ("InvalidImageName", "ErrImageNeverPull")
PULL = ("ErrImagePull", "ImagePullBackOff")
UNKNOWN_IMAGE = ("not found", "NotFound")


def is_permanent(status):
    """Returns whether a container waits for what will not happen."""
    waiting = (status.get("state") or {}).get("waiting") or {}
    reason, message = waiting.get("reason"), waiting.get("message") or ""
    return reason in PERMANENT or (reason in PULL and any(words in message for words in UNKNOWN_IMAGE))


def has_ended(policy, statuses):
    """Returns whether a container has ended that its pod does not start again. Such a pod is never ready."""
    ended = [(each.get("state") or {}).get("terminated") for each in statuses]
    return any(each and (policy == "Never" or policy == "OnFailure" and each.get("exitCode") == 0) for each in ended)


def state_of(resource):
    """Returns the state of one pod that exists."""
    status = resource.get("status") or {}
    if resource["metadata"].get("deletionTimestamp"):
        return "gone"
    if any(each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions") or []):
        return "ready"
    containers = status.get("containerStatuses") or []
    init = status.get("initContainerStatuses") or []
    if status.get("phase") in ("Failed", "Succeeded") or any(map(is_permanent, init + containers)):
        return "failed"
    if has_ended(resource["spec"].get("restartPolicy"), containers):
        return "failed"
    return "waiting"


def pod_state(pods, answer):
    """Returns the state of all pods together. An answer without pods says nothing of them."""
    if not answer.get("api_found") or answer.get("resources") is None:
        return "waiting"
    resources = answer["resources"]
    found = {each["metadata"]["name"]: state_of(each) for each in resources}
    states = {found.get(pod["name"], "gone") for pod in pods}
    return next((state for state in ("failed", "gone", "waiting") if state in states), "ready")


class FilterModule:
    """The filter, for Ansible."""

    def filters(self):
        return {"pod_state": pod_state}
