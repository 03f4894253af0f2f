# Copyright: podbridge contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Kubeconfigs of a Zuul build that are none: they lead to no slot, and break no task."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import pytest
from ansible.plugins.loader import connection_loader

connection_loader.add_directory(str(Path(__file__).parents[4] / "plugins" / "connection"))
plugin = sys.modules[connection_loader.get("kubectl", class_only=True).__module__]

KUBECONFIG = {
    "clusters": [{"name": "c", "cluster": {"server": "https://one:1/"}}],
    "contexts": [{"name": "x", "context": {"cluster": "c", "namespace": "ci"}}],
    "current-context": "x",
}
CONTENT = json.dumps(KUBECONFIG).encode()


def slot(directory, content, **options):
    """Returns whether the plugin finds the slot of the pod `web` in the namespace `ci` of the server `https://one:1`."""
    (directory / "config").write_bytes(content)
    path = directory / "0199756f54f43fe8"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        found = plugin.zuul_slot_socket({"pod": "web", "kubeconfig": str(directory / "config"), **options})
    path.unlink()
    assert found in (None, str(path))
    return found is not None


@pytest.mark.parametrize("content", [CONTENT, b"\xef\xbb\xbf" + CONTENT, b"---\n" + CONTENT + b"\n---\nx: y\n"])
def test_a_kubeconfig_leads_to_its_slot(tmp_path, content):
    assert slot(tmp_path, content)
    assert not slot(tmp_path, content, server="https://one:1")  # with the credentials of another cluster


@pytest.mark.parametrize(
    "changes",
    [
        {"clusters": [{"name": "c", "cluster": {"server": 1}}]},
        {"clusters": [{"name": "c", "cluster": {"server": ["https://one:1"]}}]},
        {"clusters": [{"name": "c", "cluster": None}]},
        {"clusters": None},
        {"clusters": "c"},
        {"contexts": [{"name": "x", "context": "c"}]},
        {"contexts": [{"name": "x", "context": {"cluster": "c", "namespace": 1}}]},
        {"contexts": [{"name": "x", "context": {"cluster": "c", "namespace": {"ci": "ci"}}}]},
        {"current-context": ["x"]},
        {"current-context": "y"},
    ],
)
def test_values_of_other_types_lead_to_no_slot(tmp_path, changes):
    assert not slot(tmp_path, json.dumps({**KUBECONFIG, **changes}).encode())


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff", b"[" * 100_000, b"{", b"a: b: c", b"- 1", b"x", b"\0", b"a: &a [*a]", CONTENT + b"\n---\n{"],
)
def test_bytes_that_are_no_kubeconfig_lead_to_no_slot(tmp_path, content):
    assert not slot(tmp_path, content)
