# Copyright: podbridge contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter `pod_record`: what the logs of a job keep of a pod. Logs are published, and values may be secret."""

from __future__ import annotations

DOCUMENTATION = r"""
name: pod_record
short_description: A pod without values that may be secret, for the logs of a job
version_added: 0.1.0
author: podbridge contributors (!UNKNOWN)
description:
  - Returns name, specification and status of a pod, without the values of environment variables and HTTP headers, and
    without commands and their arguments. Names and references to secrets stay.
options:
  _input:
    description: The pod, as M(kubernetes.core.k8s_info) returns it.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Keep what the API server says of a pod
  ansible.builtin.copy:
    content: "{{ found.resources[0] | podbridge.zuul.pod_record | to_nice_yaml }}"
    dest: "{{ zuul.executor.log_root }}/pod.yaml"
    mode: "0644"
"""

RETURN = r"""
_value:
  description: The pod without these values.
  type: dict
"""

WORDS = ("command", "args")


def without_values(tree):
    """Returns a part of a specification without commands and without the values of pairs of a name and a value."""
    if isinstance(tree, list):
        return [without_values(each) for each in tree]
    if not isinstance(tree, dict):
        return tree
    left_out = WORDS + (("value",) if "name" in tree else ())
    return {key: without_values(value) for key, value in tree.items() if key not in left_out}


def pod_record(resource):
    """Returns name, specification and status of a pod."""
    record = {"metadata": {"name": resource["metadata"]["name"]}, "spec": without_values(resource["spec"])}
    return {**record, "status": resource.get("status") or {}}


class FilterModule:
    """The filter, for Ansible."""

    def filters(self):
        return {"pod_record": pod_record}
