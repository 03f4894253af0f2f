# Copyright: podbridge contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter `kubeconfig_cluster`: the settings of a cluster in a kubeconfig, for a kubeconfig on another machine."""

from __future__ import annotations

DOCUMENTATION = r"""
name: kubeconfig_cluster
short_description: Settings of the cluster that a context of a kubeconfig names
version_added: 0.1.0
author: podbridge contributors (!UNKNOWN)
description:
  - Returns the whole dictionary of the cluster, with the certificate of its authority in place of the path of a file.
options:
  _input:
    description: Path of the kubeconfig.
    type: path
    required: true
  context:
    description: Name of the context. The default is the current one.
    type: str
    default: ''
"""

EXAMPLES = r"""
- name: Show the server
  ansible.builtin.debug:
    msg: "{{ (lookup('ansible.builtin.env', 'KUBECONFIG') | podbridge.zuul.kubeconfig_cluster).server }}"
"""

RETURN = r"""
_value:
  description: The settings of the cluster.
  type: dict
"""

import base64
import os

import yaml
from ansible.errors import AnsibleFilterError

FILE = "certificate-authority"
DATA = "certificate-authority-data"


def entry(config, kind, name):
    """Returns the entry of a list in the kubeconfig."""
    found = [each for each in config.get(f"{kind}s") or [] if each.get("name") == name]
    if not found:
        raise AnsibleFilterError(f"the kubeconfig has no {kind} {name}")
    return found[0][kind]


def kubeconfig_cluster(path, context=""):
    """Returns the settings of the cluster; the data of the authority win over its file, as in kubectl."""
    try:
        with open(path, encoding="utf-8") as file:
            config = yaml.safe_load(file) or {}
        cluster = dict(
            entry(config, "cluster", entry(config, "context", context or config.get("current-context"))["cluster"])
        )
        authority = cluster.pop(FILE, "")
        if authority and not cluster.get(DATA):
            with open(os.path.join(os.path.dirname(path), authority), "rb") as file:
                cluster[DATA] = base64.b64encode(file.read()).decode()
    except OSError as error:
        raise AnsibleFilterError(f"cannot read {error.filename}: {error.strerror}") from None
    return cluster


class FilterModule:
    """The filter, for Ansible."""

    def filters(self):
        return {"kubeconfig_cluster": kubeconfig_cluster}
