# Copyright: podbridge contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests of the connection plugins against a bridge that the test itself plays, and of their option documentation."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import threading
import time
from pathlib import Path

import pytest
from ansible.errors import AnsibleConnectionFailure, AnsibleError, AnsibleFileNotFound
from ansible.playbook.play_context import PlayContext
from ansible.plugins.loader import become_loader, connection_loader

PLUGINS = Path(__file__).parents[4] / "plugins" / "connection"
connection_loader.add_directory(str(PLUGINS))
Connection = connection_loader.get("kubectl", class_only=True)
plugin = __import__("sys").modules[Connection.__module__]
Frame = plugin.Exchange  # it has the types of frames


def frame(kind, payload=b""):
    """Returns a frame of the client protocol; a dictionary is sent as JSON."""
    if isinstance(payload, dict):
        payload = json.dumps(payload).encode()
    return struct.pack(">IB", len(payload) + 1, kind) + payload


def result(**keys):
    return frame(Frame.RESULT, keys)


class Bridge:
    """Bridge that calls `answer(request, receive, send, descriptors)` for each connection and records the requests."""

    def __init__(self, path, answer):
        self.requests, self.answer = [], answer
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        # A failed assertion closes the sockets, so that the test fails instead of waiting.
        with self.listener, contextlib.suppress(OSError):
            while True:
                client, _address = self.listener.accept()
                with client, client.makefile("rb") as stream:
                    self._answer(client, stream)

    def _answer(self, client, stream):
        def receive():
            length, kind = struct.unpack(">IB", stream.read(5))
            return kind, stream.read(length - 1)

        head, descriptors, _flags, _address = socket.recv_fds(client, 5, 4)
        length, kind = struct.unpack(">IB", head)
        assert kind == Frame.REQUEST
        self.requests.append(json.loads(stream.read(length - 1)))
        self.answer(self.requests[-1], receive, client.sendall, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


@pytest.fixture
def connect(tmp_path, monkeypatch):
    """Returns a function that makes a connection with these variables, and the bridge that it finds."""
    directory = tmp_path / "bridges"
    directory.mkdir(mode=0o700)
    monkeypatch.setenv("PODBRIDGE_DIR", str(directory))
    monkeypatch.setenv("PODBRIDGE_EXECUTABLE", "/nowhere/podbridge")
    for name in ("KUBECONFIG", "PODBRIDGE_LINK", "PODBRIDGE_AGENT_SOCKET"):
        monkeypatch.delenv(name, raising=False)
    bridges = []

    def connect(answer=None, **variables):
        context = PlayContext()
        context.remote_addr = "web"
        connection = connection_loader.get("kubectl", context, os.devnull)
        connection.set_options(var_options={"ansible_kubectl_namespace": "ci", **variables})
        if answer:
            path = directory / f"{plugin.target_key(connection._target())}.sock"
            connection.bridge = Bridge(str(path), answer)
            bridges.append(connection.bridge)
        return connection

    yield connect
    for bridge in bridges:
        bridge.listener.close()


def answering(*frames):
    """Returns an `answer` for Bridge that sends these frames."""

    def answer(request, receive, send, descriptors):
        for data in frames:
            send(data)

    return answer


KUBECONFIG = {
    "clusters": [{"name": "c", "cluster": {"server": "https://one:1/"}}],
    "contexts": [{"name": "x", "context": {"cluster": "c", "namespace": "ci"}}],
    "current-context": "x",
}


@pytest.fixture
def kube(tmp_path, monkeypatch):
    """The directory of a Zuul build's kubeconfig."""
    directory = tmp_path / "kube"
    directory.mkdir()
    (directory / "config").write_text(json.dumps(KUBECONFIG))
    monkeypatch.setenv("KUBECONFIG", str(directory / "config"))
    return directory


def listen(path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    return listener


def test_the_bridge_of_zuuls_slot_is_found_by_namespace_pod_and_server(kube):
    # The Rust tests of the shim assert the same vectors.
    target = {"pod": "web", "kubeconfig": str(kube / "config")}
    assert plugin.zuul_slot_socket(target) is None
    with listen(kube / "0199756f54f43fe8"), listen(kube / "1a11d5bf9e2cc476"):
        found = str(kube / "0199756f54f43fe8")
        assert (
            plugin.zuul_slot_socket(target)
            == plugin.zuul_slot_socket({**target, "pod": "pod/web"})
            == plugin.zuul_slot_socket({**target, "context": "x", "namespace": "ci"})
            == found
        )
        for other in (
            {"pod": "db"},
            {"namespace": "prod"},
            {"server": "https://two:2"},
            {"extra_args": ["--namespace=prod"]},
            {"token": "t"},
            {"client_cert": "/c"},
            {"verify_ssl": True},
        ):
            assert plugin.zuul_slot_socket({**target, **other}) is None, other
        # A kubeconfig without a cluster, as with the local link.
        (kube / "config").write_text("")
        assert plugin.zuul_slot_socket(target) == str(kube / "1a11d5bf9e2cc476")
        assert plugin.zuul_slot_socket({**target, "namespace": "ci"}) is None


@pytest.fixture
def zuul():
    """The loop by which Zuul starts a bridge again."""
    process = subprocess.Popen(["sh", "-c", "while read line; do : port-forward; done"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def test_the_plugin_waits_for_the_bridge_of_zuuls_slot_and_starts_none(kube, connect, zuul):
    path, new = kube / "0199756f54f43fe8", kube / "new"
    listen(path).close()  # a bridge that has died and left its socket
    started = Path(f"/proc/{zuul.pid}/stat").read_text().rpartition(")")[2].split()[19]
    (kube / "0199756f54f43fe8.loop").symlink_to(f"{zuul.pid} {started} {os.readlink('/proc/self/ns/pid')}")

    def start():
        Bridge(str(new), answering(result(outcome="exited", code=7)))
        new.rename(path)

    variables = {"ansible_kubectl_kubeconfig": str(kube / "config")}
    connection = connect(**variables)
    threading.Timer(0.3, start).start()
    assert connection.exec_command("x")[0] == 7
    path.unlink()
    listen(path).close()
    connection = connect(**variables, ansible_podbridge_connect_timeout=2)
    with pytest.raises(AnsibleConnectionFailure, match="nothing was run"):
        connection.exec_command("x")
    # Nobody will start that bridge again: the plugin starts its own.
    zuul.kill()
    zuul.wait()
    begun = time.monotonic()
    with pytest.raises(AnsibleError, match="cannot run /nowhere/podbridge"):
        connection.exec_command("x")
    assert 1 <= time.monotonic() - begun < 3


def test_synchronize_gets_a_command_without_secrets(connect, tmp_path, monkeypatch):
    monkeypatch.setattr(plugin.C, "DEFAULT_LOCAL_TMP", str(tmp_path))
    assert connect().transport == "docker"
    secrets = {
        "ansible_kubectl_token": "SECRET",
        "ansible_kubectl_password": "SECRET",
        "ansible_kubectl_username": "SECRET",
        "ansible_kubectl_kubeconfig": {"users": [{"name": "SECRET"}]},
        "ansible_kubectl_extra_args": "--token=SECRET -c main",
        "ansible_kubectl_local_env_vars": {"HTTPS_PROXY": "http://u:SECRET@proxy"},
    }
    for variables in ({name: value} for name, value in secrets.items()):
        connection = connect(**variables)
        path = tmp_path / f"podbridge-{plugin.target_key(connection._target())}.json"
        assert connection.podbridge_command[:2] == ["/nowhere/podbridge", f"--target-file={path}"]
        assert "SECRET" not in connection.docker_cmd
        assert json.loads(path.read_text()) == connection._target()
        assert "SECRET" in path.read_text()
        assert path.stat().st_mode & 0o777 == 0o600
        inode = path.stat().st_ino
        assert connect(**variables).docker_cmd == connection.docker_cmd
        assert path.stat().st_ino == inode
    variables = {"ansible_kubectl_context": "a b", "ansible_kubectl_container": "main", "ansible_podbridge_user": "ci"}
    connection = connect(**variables)
    path = tmp_path / f"podbridge-{plugin.target_key(connection._target())}.json"
    command = f"/nowhere/podbridge --target-file={path} --container=main docker --pod=web --user=ci"
    assert connection.docker_cmd == command
    become = connect(**variables)
    become.set_become_plugin(become_loader.get("sudo"))
    assert become.docker_cmd == command.replace("--user=ci", "--become")


def test_the_option_for_the_container_comes_before_extra_args(connect):
    assert connect(ansible_kubectl_extra_args="-c side").container == "side"
    assert connect(ansible_kubectl_extra_args="-c side", ansible_kubectl_container="main").container == "main"
    assert "extra_args" not in connect(ansible_kubectl_extra_args="-c side")._target()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", None),
        (None, None),
        *((value, True) for value in (True, "true", "yes", "1", 1)),
        *((value, False) for value in (False, "no", 0)),
    ],
)
def test_verification_of_the_certificate_is_said_both_ways(connect, given, expected):
    assert connect(ansible_kubectl_validate_certs=given)._target().get("verify_ssl") is expected


def test_a_mistyped_validate_certs_turns_nothing_off(connect):
    with pytest.raises(AnsibleError, match="maybe"):
        connect(ansible_kubectl_validate_certs="maybe")._target()


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("ansible_podbridge_usr", "ansible_podbridge_user"),
        ("ansible_podbridge_conect_timeout", "ansible_podbridge_connect_timeout"),
        ("ansible_podbridge_timeout", "ansible_podbridge_connect_timeout"),
        ("ansible_podbridge_oom_result", "ansible_podbridge_oom"),
        ("ansible_podbridge_executeable", "ansible_podbridge_executable"),
        ("ansible_podbridge_Link", "ansible_podbridge_link"),
        ("ansible_podbridge_user", None),
    ],
)
def test_a_misspelt_variable_is_said(connect, monkeypatch, name, nearest):
    said = []
    monkeypatch.setattr(plugin.display, "warning", said.append)
    connect(_extras={name: "x"})
    expected = f"host web: podbridge does not know the variable {name}; did you mean {nearest}?"
    assert said == [expected] * bool(nearest)


def test_a_disabled_podbridge_uses_the_stock_plugin(connect, monkeypatch):
    monkeypatch.setenv("PODBRIDGE_DISABLE", "0")
    connect()
    monkeypatch.setenv("PODBRIDGE_DISABLE", "1")
    with pytest.raises(AnsibleError, match="kubernetes.core.kubectl"):
        connect()


def test_a_pod_with_windows_uses_the_stock_plugin():
    context = PlayContext()
    context.remote_addr, context.shell = "web", "powershell"
    connection = connection_loader.get("kubectl", context, os.devnull)
    with pytest.raises(AnsibleError, match="kubernetes.core.kubectl"):
        connection.set_options(var_options={})


def test_the_target_holds_the_given_options_only(connect, monkeypatch):
    monkeypatch.setattr(os, "environ", {"HOME": "/home/ci"})
    default = "/home/ci/.kube/config"
    assert connect()._target() == {"pod": "web", "namespace": "ci", "default_kubeconfig": default}
    monkeypatch.setenv("KUBECONFIG", "/etc/kube:relative")
    variables = {
        "ansible_kubectl_pod": "other",
        "ansible_kubectl_context": "dev",
        "ansible_kubectl_host": "https://api",
        "ansible_kubectl_token": "secret",
        "ansible_kubectl_extra_args": "--as=ci  --as-group 'a b'",
        "ansible_kubectl_local_env_vars": {"HTTPS_PROXY": "http://proxy", "N": 1},
        "ansible_kubectl_cert_file": "cert",
        "ansible_kubectl_validate_certs": "no",
        "ansible_podbridge_link": "local",
        "ansible_podbridge_agent_socket": "/run/agent.sock",
    }
    assert connect(**variables)._target() == {
        "pod": "other",
        "namespace": "ci",
        "context": "dev",
        "server": "https://api",
        "token": "secret",
        "extra_args": ["--as=ci", "--as-group=a b"],
        "env": {"HTTPS_PROXY": "http://proxy", "N": "1"},
        "client_cert": os.path.abspath("cert"),
        "kubeconfig": f"/etc/kube:{os.path.abspath('relative')}",
        "verify_ssl": False,
        "link": "local",
        "agent_socket": "/run/agent.sock",
    }


def test_a_kubeconfig_may_be_a_dictionary(connect):
    target = connect(ansible_kubectl_kubeconfig={"users": [{"name": "ü"}]})._target()
    assert target["kubeconfig_data"] == {"users": [{"name": "ü"}]}
    assert "kubeconfig" not in target


def test_a_command_returns_its_exit_code_and_both_streams(connect, monkeypatch):
    shown = []
    monkeypatch.setattr(plugin.display, "vvv", lambda text, host: shown.append(text))
    received = {}

    def answer(request, receive, send, descriptors):
        received["stdin"] = os.pread(descriptors[0], 100, 0)
        for data in (
            frame(Frame.STARTED, {"exec_id": request["exec_id"], "pid": 7, "python": "cold"}),
            frame(Frame.STDOUT, b"o\xff"),
            frame(Frame.STDERR, b"e"),
            frame(Frame.STDOUT, b"ut"),
            result(outcome="exited", code=3),
        ):
            send(data)

    connection = connect(answer, ansible_kubectl_container="side", ansible_podbridge_warm_python="no")
    assert connection.exec_command("caf\udce9", in_data=b"module") == (3, b"o\xffut", b"e")
    assert received["stdin"] == b"module"
    request = connection.bridge.requests[0]
    assert (request["v"], request["op"], request["stdin"], request["container"]) == (1, "exec", "fd", "side")
    assert request["argv"] == ["/bin/sh", "-c", {"b64": "Y2Fm6Q=="}]
    assert "user" not in request and request["cold_python"] and "PYTHON cold" in shown


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ({"outcome": "signaled", "signal": 9}, 137),
        ({"outcome": "start_failed", "step": "exec", "code": 127, "message": "no such file"}, 127),
    ],
)
def test_a_signal_and_a_failed_start_have_exit_codes(connect, answer, code):
    assert connect(answering(result(**answer))).exec_command("x")[0] == code


@pytest.mark.parametrize(
    ("answer", "variables", "error"),
    [
        ({"outcome": "unreachable", "kind": "pod_not_found"}, {}, AnsibleConnectionFailure),
        ({"outcome": "lost", "kind": "agent_lost"}, {}, AnsibleConnectionFailure),
        ({"outcome": "cancelled"}, {}, AnsibleConnectionFailure),
        ({"outcome": "oom_killed"}, {"ansible_podbridge_oom": "unreachable"}, AnsibleConnectionFailure),
        ({"outcome": "oom_killed"}, {}, AnsibleError),
        ({"outcome": "failed", "kind": "io"}, {}, AnsibleError),
        ({"outcome": "start_failed", "step": "user", "code": 126}, {}, AnsibleConnectionFailure),
        ({"outcome": "start_failed", "step": "cwd", "code": 126}, {}, AnsibleError),
        ({"outcome": "something new"}, {}, AnsibleError),
    ],
)
def test_each_outcome_raises_its_error(connect, answer, variables, error):
    with pytest.raises(AnsibleError, match="the reason") as raised:
        connect(answering(result(message="the reason", **answer)), **variables).exec_command("x")
    assert raised.value.__class__ is error


@pytest.mark.parametrize("started", [b"", frame(0x10, {"exec_id": "0", "pid": 7}), frame(0x11, b"half")[:7]])
def test_bridges_that_die_again_and_again_make_the_host_unreachable(connect, started, monkeypatch):
    monkeypatch.setattr(Frame, "BRIDGE_DEATHS_WITHIN", 0.2)
    connection = connect(answering(started))
    with pytest.raises(AnsibleConnectionFailure):
        connection.exec_command("x")
    # The id is the same each time, so no agent starts the command twice.
    assert len({request["exec_id"] for request in connection.bridge.requests}) == 1
    assert len(connection.bridge.requests) > 2


def test_a_command_goes_on_over_the_next_bridge(connect):
    def answer(request, receive, send, descriptors):
        if "resume" not in request:
            send(frame(Frame.AGENT, {"instance": "i"}))
            send(frame(Frame.STARTED, {"exec_id": request["exec_id"], "pid": 7}))
            send(frame(Frame.STDOUT, b"one "))
            send(frame(Frame.STDOUT, b"lost")[:7])
            return
        send(frame(Frame.STDOUT, b"two"))
        send(result(outcome="exited", code=3))

    connection = connect(answer)
    assert connection.exec_command("x") == (3, b"one two", b"")
    first, second = connection.bridge.requests
    assert (second["exec_id"], second["requires"]) == (first["exec_id"], ["resume"])
    assert second["resume"] == {"instance": "i", "started": True, "stdout": 4, "stderr": 0, "stdin": 0}


def test_a_bridge_that_cannot_be_started_names_the_program(connect):
    with pytest.raises(AnsibleError, match="/nowhere/podbridge"):
        connect().exec_command("x")


def test_files_are_copied_and_a_missing_one_is_an_error(connect, tmp_path):
    def answer(request, receive, send, descriptors):
        if request["op"] == "put":
            assert os.pread(descriptors[0], 100, 0) == b"content"
        elif request["path"] == "/absent":
            return send(result(outcome="failed", kind="not_found", message="no such file"))
        else:
            os.pwrite(descriptors[0], b"fetched", 0)
        send(result(outcome="ok", length=7, sha256="0"))

    connection = connect(answer, ansible_podbridge_user="tester")
    local = tmp_path / "lokäl"
    local.write_bytes(b"content")
    connection.put_file(str(local), "relative path")
    assert connection.bridge.requests[0] == {"v": 1, "op": "put", "path": "/relative path", "user": "tester"}
    connection.fetch_file("/tmp/x", str(local))
    assert local.read_bytes() == b"fetched"
    with pytest.raises(AnsibleFileNotFound):
        connection.fetch_file("/absent", str(local))
    assert local.read_bytes() == b"fetched"
    with pytest.raises(AnsibleFileNotFound):
        connection.put_file(str(tmp_path / "none"), "/tmp/x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bridges", "lokäl"]


class Become:
    """Become plugin with the attributes that the connection reads."""

    name, success = "sudo", "BECOME-SUCCESS-x"
    expect_prompt = staticmethod(lambda: True)
    check_success = staticmethod(lambda output: b"BECOME-SUCCESS-x" in output)
    check_password_prompt = staticmethod(lambda output: output.endswith(b"password:"))
    check_incorrect_password = staticmethod(lambda output: b"Sorry" in output)
    get_option = staticmethod(lambda name, playcontext=None: "pässword")


def test_a_password_prompt_with_more_stdin_than_the_window(connect):
    module = os.urandom(3 << 20)
    got = []

    def answer(request, receive, send, descriptors):
        send(frame(Frame.STARTED, {"exec_id": request["exec_id"], "pid": 7}))
        send(frame(Frame.STDERR, b"pass"))
        send(frame(Frame.STDERR, b"word:"))
        assert receive() == (Frame.STDIN, "pässword\n".encode())
        send(frame(Frame.STDOUT, b"BECOME-SUCCESS-x\nout"))
        taken = len("pässword\n".encode())
        while True:
            kind, payload = receive()
            if kind == Frame.STDIN_EOF:
                break
            got.append(payload)
            taken += len(payload)
            send(frame(Frame.STDIN_ACK, struct.pack(">QB", taken, 0)))
        send(result(outcome="exited", code=0))

    connection = connect(answer)
    connection.set_become_plugin(Become())
    assert connection.exec_command("x", in_data=module, sudoable=True) == (0, b"out", b"")
    assert b"".join(got) == module


def test_the_next_bridge_gets_the_stdin_that_was_not_acknowledged(connect):
    module = os.urandom(1 << 17)
    password = "pässword\n".encode()
    got = []

    def answer(request, receive, send, descriptors):
        resume = request.get("resume")
        if resume is None:
            send(frame(Frame.AGENT, {"instance": "i"}))
            send(frame(Frame.STDERR, b"password:"))
            receive()
            send(frame(Frame.STDOUT, b"BECOME-SUCCESS-x\n"))
            got.append(receive()[1][:5])
            send(frame(Frame.STDIN_ACK, struct.pack(">QB", len(password) + 5, 0)))
            return
        assert (resume["stdin"], resume["started"], resume["stderr"]) == (len(password) + 5, False, 9)
        while (received := receive())[0] == Frame.STDIN:
            got.append(received[1])
        assert received[0] == Frame.STDIN_EOF
        send(result(outcome="exited", code=0))

    connection = connect(answer)
    connection.set_become_plugin(Become())
    assert connection.exec_command("x", in_data=module) == (0, b"", b"")
    assert b"".join(got) == module


def test_a_wrong_password_is_an_error_of_the_task(connect):
    def answer(request, receive, send, descriptors):
        send(frame(Frame.STDERR, b"password:"))
        receive()
        send(frame(Frame.STDERR, b"Sorry, try again.\npassword:"))

    connection = connect(answer)
    connection.set_become_plugin(Become())
    with pytest.raises(AnsibleError, match="Incorrect sudo password") as raised:
        connection.exec_command("x")
    assert raised.value.__class__ is AnsibleError


def test_reset_never_raises(connect):
    connect().reset()
    connect(answering(b"")).reset()
    connection = connect(
        answering(result(outcome="unreachable", kind="pod_lost", message="gone")), ansible_kubectl_pod="b"
    )
    connection.reset()
    assert connection.bridge.requests == [{"v": 1, "op": "relink"}]


def test_the_plugin_announces_its_features_to_core(connect):
    connection = connect()
    assert connection.has_pipelining and connection.get_option("pipelining") is True
    assert not connection.always_pipeline_modules and not connection.has_native_async
    assert connection.get_option("remote_user") is None
    assert connect(ansible_podbridge_user="tester").get_option("remote_user") == "tester"


def test_every_name_of_the_stock_plugin_is_known():
    """stock_options.json has the options of kubernetes.core 5.x and community.okd, with their variables."""
    names = json.loads((Path(__file__).parent / "stock_options.json").read_text())
    for module, stock in names.items():
        options = option_sources(module)
        for option, sources in stock.items():
            assert sources.items() <= options[option].items(), option


def documentation(name):
    """Returns the DOCUMENTATION of a plugin of this collection, as text."""
    return (PLUGINS / f"{name}.py").read_text().split('DOCUMENTATION = r"""')[1].split('"""')[0]


def parse_options(text):
    from ansible.parsing.yaml.loader import AnsibleLoader

    return AnsibleLoader(text).get_single_data()["options"]


def test_oc_documents_the_options_of_kubectl():
    """oc.py repeats the options of kubectl.py under other names, without user name and password."""
    text = documentation("kubectl")
    names = {"kubernetes.core.kubectl": "community.okd.oc", "kubectl_": "oc_", "of kubectl": "of oc"}
    for kubectl, oc in {**names, "C(kubectl exec)": "C(oc exec)"}.items():
        text = text.replace(kubectl, oc)
    expected = parse_options(text)
    del expected["oc_username"], expected["oc_password"]
    found = parse_options(documentation("oc"))
    assert list(found) == list(expected)
    for option in expected:
        assert found[option] == expected[option], option


def option_sources(name):
    """Returns, for each option of a plugin, its environment variables, variables and aliases."""
    return {
        option: {
            "env": [entry["name"] for entry in keys.get("env", [])],
            "vars": [entry["name"] for entry in keys.get("vars", [])],
            "aliases": keys.get("aliases", []),
        }
        for option, keys in parse_options(documentation(name)).items()
    }


@pytest.mark.parametrize(("home", "made"), [("writable", "writable"), ("/proc", "system")])
def test_a_user_who_cannot_write_to_his_home_gets_a_directory_of_the_system(tmp_path, home, made):
    """The home directory of a user without an entry in the passwd file is /."""
    from ansible.plugins.loader import shell_loader

    (tmp_path / "writable").mkdir()
    shell = shell_loader.get("sh")
    shell.set_options(direct={"system_tmpdirs": ["/proc", str(tmp_path / "system")]})
    remote_tmp = f"{tmp_path / home}/.ansible/tmp"
    command = plugin.temporary_directory_command(shell, "ansible-tmp-1", False, 0o700, remote_tmp)
    ran = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    path = Path(ran.stdout.strip().split("ansible-tmp-1=", 1)[1])
    assert path.is_relative_to(tmp_path / made)
    assert path.is_dir()
    assert path.stat().st_mode & 0o777 == 0o700
