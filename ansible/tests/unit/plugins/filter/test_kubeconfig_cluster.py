# Copyright: podbridge contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Table of the settings of a cluster that a child job gets from the kubeconfig of its parent."""

from __future__ import annotations

import base64
import importlib.util
import json
from pathlib import Path

import pytest
from ansible.errors import AnsibleFilterError

PATH = Path(__file__).parents[4] / "plugins" / "filter" / "kubeconfig_cluster.py"
SPEC = importlib.util.spec_from_file_location("kubeconfig_cluster", PATH)
MODULE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(MODULE)
PEM = b"-----BEGIN CERTIFICATE-----\n"
ENCODED = base64.b64encode(PEM).decode()
SERVER = {"server": "https://10.0.0.1:6443"}


def cluster_of(directory, cluster, context=""):
    other = {"name": "other", "context": {"cluster": "nosuch"}}
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k"}}, other],
        "clusters": [{"name": "k", "cluster": cluster}],
    }
    path = directory / "config"
    path.write_text(json.dumps(config))
    return MODULE.kubeconfig_cluster(str(path), context)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {}),
        ({"insecure-skip-tls-verify": True}, {"insecure-skip-tls-verify": True}),
        ({"tls-server-name": "api", "proxy-url": "http://p:1"}, {"tls-server-name": "api", "proxy-url": "http://p:1"}),
        ({"certificate-authority-data": "eA=="}, {"certificate-authority-data": "eA=="}),
        ({"certificate-authority": "ca.crt"}, {"certificate-authority-data": ENCODED}),
        ({"certificate-authority": "{directory}/ca.crt"}, {"certificate-authority-data": ENCODED}),
        (
            {"certificate-authority": "nosuch", "certificate-authority-data": "eA=="},
            {"certificate-authority-data": "eA=="},
        ),
    ],
)
def test_a_child_gets_all_settings_of_the_cluster(tmp_path, given, expected):
    (tmp_path / "ca.crt").write_bytes(PEM)
    given = json.loads(json.dumps(given).replace("{directory}", str(tmp_path)))
    assert cluster_of(tmp_path, {**SERVER, **given}) == {**SERVER, **expected}


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(AnsibleFilterError, match="^cannot read .*/ca.crt: No such file"):
        cluster_of(tmp_path, {**SERVER, "certificate-authority": "ca.crt"})
    with pytest.raises(AnsibleFilterError, match="^the kubeconfig has no context none$"):
        cluster_of(tmp_path, SERVER, "none")
    with pytest.raises(AnsibleFilterError, match="^the kubeconfig has no cluster nosuch$"):
        cluster_of(tmp_path, SERVER, "other")
    with pytest.raises(AnsibleFilterError, match="^cannot read /nosuch: No such file"):
        MODULE.kubeconfig_cluster("/nosuch")
