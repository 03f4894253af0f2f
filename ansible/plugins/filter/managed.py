# Copyright: podbridge contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter `managed`: which resources the roles made. The roles change and remove no others."""

from __future__ import annotations

DOCUMENTATION = r"""
name: managed
short_description: Names of resources that the roles made, or did not make
version_added: 0.1.0
author: podbridge contributors (!UNKNOWN)
description:
  - Returns the resources with the label C(app.kubernetes.io/managed-by=podbridge), or those without it. Only their
    kinds and names are in the answer.
options:
  _input:
    description: Resources, as M(kubernetes.core.k8s_info) returns them.
    type: list
    elements: dict
    required: true
  made:
    description: Whether to return those that the roles made.
    type: bool
    default: true
"""

EXAMPLES = r"""
- name: Remove what the roles made
  kubernetes.core.k8s:
    state: absent
    definition: "{{ found.resources | podbridge.zuul.managed }}"
    namespace: ci
"""

RETURN = r"""
_value:
  description: The resources.
  type: list
  elements: dict
"""


def is_managed(resource):
    return (resource["metadata"].get("labels") or {}).get("app.kubernetes.io/managed-by") == "podbridge"


def managed(resources, made=True):
    """Returns the resources that the roles made, or those that they did not make."""
    return [
        {"apiVersion": "v1", "kind": each["kind"], "metadata": {"name": each["metadata"]["name"]}}
        for each in resources
        if is_managed(each) == made
    ]


class FilterModule:
    """The filter, for Ansible."""

    def filters(self):
        return {"managed": managed}
