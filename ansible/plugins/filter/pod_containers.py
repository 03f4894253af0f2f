# Copyright: podbridge contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter `pod_containers`: the names of the containers of pods, for loops whose items are in the job's log."""

from __future__ import annotations

DOCUMENTATION = r"""
name: pod_containers
short_description: Names of the containers of pods
version_added: 0.1.0
author: podbridge contributors (!UNKNOWN)
description:
  - Returns C(pod) and C(container) for each container and each init container. Nothing else of the pods is in it, so
    that a loop over it shows no value of a pod.
options:
  _input:
    description: Pods, as M(kubernetes.core.k8s_info) returns them.
    type: list
    elements: dict
    required: true
  unready:
    description: Whether to return only containers that have a status and are not ready. An init container that has done
      its work is ready.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Show the output of all containers
  kubernetes.core.k8s_log:
    name: "{{ item.pod }}"
    container: "{{ item.container }}"
    namespace: ci
  loop: "{{ found.resources | podbridge.zuul.pod_containers }}"
"""

RETURN = r"""
_value:
  description: The names.
  type: list
  elements: dict
"""


def is_unready(status, name):
    """Returns whether a container has a status that says that it is not ready."""
    statuses = (status.get("initContainerStatuses") or []) + (status.get("containerStatuses") or [])
    return any(each["name"] == name and not each.get("ready") for each in statuses)


def pod_containers(resources, unready=False):
    """Returns the names of the containers, those of init containers first."""
    return [
        {"pod": pod["metadata"]["name"], "container": container["name"]}
        for pod in resources
        for container in (pod["spec"].get("initContainers") or []) + pod["spec"]["containers"]
        if not unready or is_unready(pod.get("status") or {}, container["name"])
    ]


class FilterModule:
    """The filter, for Ansible."""

    def filters(self):
        return {"pod_containers": pod_containers}
