# Copyright: podbridge contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter `pod_hosts`: the hosts of the containers of pods, with an address of their own for the live log (ADR 23)."""

from __future__ import annotations

DOCUMENTATION = r"""
name: pod_hosts
short_description: Hosts of the containers of pods, for M(ansible.builtin.add_host)
version_added: 0.1.0
author: podbridge contributors (!UNKNOWN)
description:
  - Returns a host for each container of pods and for each native sidecar. The first container's host has the name of
    the pod, the others are named C(POD-CONTAINER).
  - Each host gets an C(ansible_host) in 127.0.0.0/8, made from a hash of O(build), namespace, pod and container. The
    bridge serves Zuul's live log there.
  - Two containers with the same name of a host are an error.
options:
  _input:
    description: Manifests of pods, as Kubernetes takes them.
    type: list
    elements: dict
    required: true
  build:
    description: What tells these hosts from those of other builds on the same machine.
    type: str
    required: true
  namespace:
    description: Namespace of the pods.
    type: str
    required: true
  context:
    description: Context of the kubeconfig.
    type: str
    default: ''
  kubeconfig:
    description: Path of a kubeconfig.
    type: str
    default: ''
  pods:
    description: The pods in the short form of the role C(podbridge.zuul.pod); C(host) is the name of a pod's host.
    type: list
    elements: dict
    default: []
"""

EXAMPLES = r"""
- name: Show the addresses of the live logs of my pods
  ansible.builtin.debug:
    msg: "{{ item.name }} {{ item.ansible_host }}"
  loop: "{{ manifests | podbridge.zuul.pod_hosts(build=zuul.build, namespace='ci') }}"
"""

RETURN = r"""
_value:
  description: The hosts, each with its name and its variables.
  type: list
  elements: dict
"""

import hashlib

from ansible.errors import AnsibleFilterError


def live_log_address(*names):
    """Returns the address of a container's live log. It is never in 127.0.0.0/24, which other programs use."""
    digest = hashlib.sha256("\0".join(names).encode()).digest()
    return f"127.{digest[0] % 254 + 1}.{digest[1]}.{digest[2] % 254 + 1}"


def pod_hosts(manifests, build, namespace, context="", kubeconfig="", pods=()):
    """Returns the hosts of all containers that serve commands for as long as their pod runs."""
    hosts, names = [], {pod["name"]: pod.get("host") or pod["name"] for pod in pods}
    for manifest in manifests:
        pod, spec = manifest["metadata"]["name"], manifest["spec"]
        sidecars = [each for each in spec.get("initContainers") or [] if each.get("restartPolicy") == "Always"]
        for at, container in enumerate([*spec["containers"], *sidecars]):
            hosts.append(
                {
                    "name": f"{names.get(pod, pod)}-{container['name']}" if at else names.get(pod, pod),
                    "ansible_connection": "podbridge.zuul.kubectl",
                    "ansible_host": live_log_address(build, namespace, pod, container["name"]),
                    "ansible_kubectl_pod": pod,
                    "ansible_kubectl_namespace": namespace,
                    "ansible_kubectl_container": container["name"],
                    "ansible_kubectl_context": context,
                    "ansible_kubectl_kubeconfig": kubeconfig,
                }
            )
    known = [host["name"] for host in hosts]
    if twice := next((name for name in known if known.count(name) > 1), None):
        raise AnsibleFilterError(
            f"two containers would be the host {twice}; give one of their pods another name or host"
        )
    return hosts


class FilterModule:
    """The filter, for Ansible."""

    def filters(self):
        return {"pod_hosts": pod_hosts}
