# Copyright: podbridge contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tables of what the connection plugin makes of options and environment; podbridge's tests assert the same vectors."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from ansible.plugins.loader import connection_loader

connection_loader.add_directory(str(Path(__file__).parents[4] / "plugins" / "connection"))
plugin = sys.modules[connection_loader.get("kubectl", class_only=True).__module__]


def test_the_key_of_a_known_target():
    # The Rust tests of the bridge assert the same vectors.
    assert plugin.target_key({"pod": "web", "namespace": "ci"}) == "655b32a8db20b679"
    environment = {"B": "ż\x7f", "A": "\n"}
    assert plugin.target_key({"pod": "web", "namespace": "ci", "env": environment}) == "d9b806a18f419811"


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("kc", "@kc"),
        ("./kc", "@kc"),
        ("a//./b/", "@a/b"),
        ("../kc", "@../kc"),
        ("link/../kc", "@link/../kc"),
        ("/a/./b//c", "/a/b/c"),
        ("//a/..", "/a/.."),
        ("/", "/"),
    ],
)
def test_a_file_has_one_spelling(path, expected):
    """podbridge's tests have the same table. "@" stands for the working directory."""
    assert plugin.absolute_path(path) == expected.replace("@", f"{os.getcwd()}/")


VECTORS = Path(__file__).parents[5] / "tests/vectors/targets.json"


@pytest.mark.parametrize("vector", json.loads(VECTORS.read_text()), ids=lambda vector: vector["name"])
def test_the_environment_completes_a_target_as_the_vectors_say(vector, tmp_path):
    """podbridge asserts the same vectors. "@NAME" stands for the path of a file of that name."""
    for name, content in vector["files"].items():
        (tmp_path / name).write_text(content)
    given, expected = (
        json.loads(json.dumps(vector[key]).replace("@", f"{tmp_path}/")) for key in ("target", "complete")
    )
    complete = plugin.complete_target(given, vector["environment"])
    assert complete == expected
    if vector["key"]:
        assert plugin.target_key(complete) == vector["key"]


@pytest.mark.parametrize(
    ("pod", "host", "port", "expected"),
    [
        ("web", "127.0.0.2", None, "127.0.0.2:19885"),
        ("pod/web", "127.255.3.4", None, "127.255.3.4:19885"),
        ("web", "127.0.0.2", "", "127.0.0.2:19885"),
        ("web", "127.0.0.2", "20001", "127.0.0.2:20001"),
        # Zuul reads no log there.
        ("web", "127.0.0.1", None, None),
        ("web", "localhost", None, None),
        # Not an address, or one that others than this host reach.
        ("web", "10.0.0.2", None, None),
        ("web", "128.0.0.1", None, None),
        ("web", "127.1", None, None),
        ("web", "127.0.0.2:22", None, None),
        ("web", "127.0.0.256", None, None),
        ("web", "::1", None, None),
        ("web", "web", None, None),
        ("web", "", None, None),
        ("web", None, None, None),
        # The address is the name of the pod, or the pods change.
        (None, "127.0.0.2", None, None),
        ("deploy/web", "127.0.0.2", None, None),
    ],
)
def test_a_loopback_address_beside_the_name_of_a_pod_is_that_of_its_live_log(pod, host, port, expected):
    environ = {} if port is None else {"ZUUL_CONSOLE_PORT": port}
    assert plugin.console_address(pod, host, environ) == expected


@pytest.mark.parametrize(
    ("given", "words", "container"),
    [
        ("", [], None),
        ("-c side", [], "side"),
        ("-cside", [], "side"),
        ("-c=side", [], "side"),
        ("--container=side", [], "side"),
        ("--container one --container two", [], "two"),
        ("-itc side", ["--stdin=true", "--tty=true"], "side"),
        ("--pod-running-timeout=2m", ["--pod-running-timeout=2m"], None),
        ("--pod-running-timeout 2m -q", ["--pod-running-timeout=2m", "--quiet=true"], None),
        ("--kubeconfig=./kc", ["--kubeconfig=@kc"], None),
        ("--kubeconfig kc --client-key=/k", ["--kubeconfig=@kc", "--client-key=/k"], None),
        (
            "--client-certificate c --certificate-authority=../a",
            ["--client-certificate=@c", "--certificate-authority=@../a"],
            None,
        ),
        ("-v 6 -v=6 -v6 --v=6", ["--v=6"] * 4, None),
        ("-n prod -nprod --namespace prod", ["--namespace=prod"] * 3, None),
        ("-s https://h", ["--server=https://h"], None),
        (
            "-n= -itn= --namespace= -n ''",
            ["--namespace==", "--stdin=true", "--tty=true", "--namespace==", "--namespace=", "--namespace="],
            None,
        ),
        ("-c=", [], "="),
        ("--cache-dir=/c --as=ci --as-group 'a b'", ["--cache-dir=/c", "--as=ci", "--as-group=a b"], None),
        ("--as=o'neil", ["--as=o'neil"], None),
        ("--insecure-skip-tls-verify --as ci", ["--insecure-skip-tls-verify=true", "--as=ci"], None),
        ("--insecure-skip-tls-verify=false", ["--insecure-skip-tls-verify=false"], None),
        # What kubectl does not take; podbridge refuses it.
        ("--all-namespaces -x -- --as", ["--all-namespaces=-x", "--", "--as"], None),
        ("-x word -ix -", ["-x", "word", "--stdin=true", "-x", "-"], None),
    ],
)
def test_extra_args_are_read_as_kubectl_reads_them(given, words, container):
    """ "@PATH" stands for a path that starts at the working directory."""
    expected = []
    for word in words:
        name, at, path = word.partition("@")
        expected.append(f"{name}{os.getcwd()}/{path}" if at else word)
    assert plugin.parse_extra_args(given) == (expected, container)


DIRECTORIES = Path(__file__).parents[5] / "tests/vectors/socket-directories.json"


@pytest.mark.parametrize("vector", json.loads(DIRECTORIES.read_text()), ids=lambda vector: vector["name"])
def test_the_directory_of_the_sockets_is_the_first_usable_one(vector, tmp_path):
    """podbridge asserts the same vectors. "@NAME" stands for a directory or file of that kind."""
    root = os.geteuid() == 0
    if root and vector.get("not_as_root"):
        pytest.skip("root may write everywhere")
    (tmp_path / "mine").mkdir()
    (tmp_path / "read-only").mkdir(mode=0o500)
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    (tmp_path / "theirs").mkdir()
    if root:
        os.chown(tmp_path / "theirs", 12345, -1)

    def text(value):
        value = value.replace("@uid", str(os.geteuid()))
        return (value if root else value.replace("@theirs", "/proc/1")).replace("@", f"{tmp_path}/")

    environ = {name: text(value) for name, value in vector["environment"].items()}
    assert plugin.socket_directory(environ) == text(vector["directory"])
