# Copyright: podbridge contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter `pod_options`: the options of `podbridge` that name the container of a host."""

from __future__ import annotations

DOCUMENTATION = r"""
name: pod_options
short_description: Options of the command line C(podbridge) that name the container of a host
version_added: 0.1.0
author: podbridge contributors (!UNKNOWN)
description:
  - Returns the options of C(podbridge) for the namespace, the container, the context and the kubeconfig of a host. The
    pod itself is an argument of the commands of C(podbridge).
options:
  _input:
    description: The variables of the host.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Push a repository into a pod
  ansible.builtin.command:
    argv: "{{ ['podbridge'] + hostvars['web'] | podbridge.zuul.pod_options + ['git', 'push', 'web:/src', 'main'] }}"
"""

RETURN = r"""
_value:
  description: The options.
  type: list
  elements: str
"""


def pod_options(host):
    """Returns one word for each option, so that an empty value is no option."""
    names = ("namespace", "container", "context", "kubeconfig")
    values = {name: host.get(f"ansible_kubectl_{name}") for name in names}
    return [f"--{name}={value}" for name, value in values.items() if value]


class FilterModule:
    """The filter, for Ansible."""

    def filters(self):
        return {"pod_options": pod_options}
