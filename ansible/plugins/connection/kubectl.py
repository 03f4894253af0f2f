# Copyright: podbridge contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connection plugin `kubectl`: runs Ansible tasks in a pod through a podbridge bridge.

It speaks the client protocol (docs/client-protocol.md) and never talks to the API server: the options go to the bridge.
It reads a kubeconfig only to find the bridge that Zuul keeps for a pod. The file is self-contained, so that it can be
installed alone: it imports only Ansible, PyYAML and the standard library. `oc.py` derives from it, and the action
`synchronize` uses its `podbridge_command`, `docker_cmd`, `pod` and `is_directory`.
"""

from __future__ import annotations

DOCUMENTATION = r"""
author: podbridge contributors (!UNKNOWN)
name: kubectl
short_description: Execute tasks in pods running on Kubernetes, over one warm connection
description:
  - Runs tasks in pods of a Kubernetes cluster and copies files to and from them, through a I(podbridge) bridge.
  - The bridge is a process on the controller that keeps one connection to the pod open for all tasks. The plugin starts
    it on demand.
  - Takes the options, variables and environment variables of P(kubernetes.core.kubectl#connection), with the same
    meaning.
version_added: 0.1.0
requirements:
  - podbridge (the program) on the controller
options:
  kubectl_pod:
    description:
      - Name of the pod. The default is the host's C(ansible_host), else its name in the inventory.
      - If the pod is named here and C(ansible_host) is an address of 127.0.0.0/8 other than 127.0.0.1, the bridge
        serves Zuul's live log of the pod at this address. A job gives each of its own pods a different address.
    default: ''
    type: str
    vars:
      - name: ansible_kubectl_pod
    env:
      - name: K8S_AUTH_POD
  kubectl_container:
    description:
      - Name of the container. The default is the container in the pod's annotation
        C(kubectl.kubernetes.io/default-container), else the pod's first container.
    default: ''
    type: str
    vars:
      - name: ansible_kubectl_container
    env:
      - name: K8S_AUTH_CONTAINER
  kubectl_namespace:
    description:
      - Namespace of the pod. The default is the namespace of the context, else C(default).
    default: ''
    type: str
    vars:
      - name: ansible_kubectl_namespace
    env:
      - name: K8S_AUTH_NAMESPACE
  kubectl_extra_args:
    description:
      - Further global options of kubectl and further options of C(kubectl exec), for example C(--as=ci) or
        C(-c side). Relative paths start at the controller's working directory.
    default: ''
    type: str
    vars:
      - name: ansible_kubectl_extra_args
    env:
      - name: K8S_AUTH_EXTRA_ARGS
  kubectl_local_env_vars:
    description:
      - Environment variables for the bridge, which runs on the controller; for example C(HTTPS_PROXY).
    default: {}
    type: dict
    vars:
      - name: ansible_kubectl_local_env_vars
  kubectl_kubeconfig:
    description:
      - Path of a kubeconfig file, or its content as a dictionary. The default is the environment variable
        C(KUBECONFIG), else I(~/.kube/config).
    default: ''
    type: raw
    vars:
      - name: ansible_kubectl_kubeconfig
      - name: ansible_kubectl_config
    env:
      - name: K8S_AUTH_KUBECONFIG
  kubectl_context:
    description:
      - Name of a context in the kubeconfig file. The default is the current context of that file.
    default: ''
    type: str
    vars:
      - name: ansible_kubectl_context
    env:
      - name: K8S_AUTH_CONTEXT
  kubectl_host:
    description:
      - URL of the API server. The default is the server of the context.
    default: ''
    type: str
    vars:
      - name: ansible_kubectl_host
      - name: ansible_kubectl_server
    env:
      - name: K8S_AUTH_HOST
      - name: K8S_AUTH_SERVER
  kubectl_username:
    description:
      - User name for the API server.
    default: ''
    type: str
    vars:
      - name: ansible_kubectl_username
      - name: ansible_kubectl_user
    env:
      - name: K8S_AUTH_USERNAME
  kubectl_password:
    description:
      - Password for the API server.
    default: ''
    type: str
    vars:
      - name: ansible_kubectl_password
    env:
      - name: K8S_AUTH_PASSWORD
  kubectl_token:
    description:
      - Bearer token for the API server.
    type: str
    vars:
      - name: ansible_kubectl_token
      - name: ansible_kubectl_api_key
    env:
      - name: K8S_AUTH_TOKEN
      - name: K8S_AUTH_API_KEY
  client_cert:
    description:
      - Path of the client certificate for the API server.
    default: ''
    type: str
    vars:
      - name: ansible_kubectl_cert_file
      - name: ansible_kubectl_client_cert
    env:
      - name: K8S_AUTH_CERT_FILE
    aliases: [ kubectl_cert_file ]
  client_key:
    description:
      - Path of the key that belongs to the client certificate.
    default: ''
    type: str
    vars:
      - name: ansible_kubectl_key_file
      - name: ansible_kubectl_client_key
    env:
      - name: K8S_AUTH_KEY_FILE
    aliases: [ kubectl_key_file ]
  ca_cert:
    description:
      - Path of the CA certificate that verifies the certificate of the API server.
    default: ''
    type: str
    vars:
      - name: ansible_kubectl_ssl_ca_cert
      - name: ansible_kubectl_ca_cert
    env:
      - name: K8S_AUTH_SSL_CA_CERT
    aliases: [ kubectl_ssl_ca_cert ]
  validate_certs:
    description:
      - Whether to verify the certificate of the API server. The default is the setting of the kubeconfig file, else
        V(true). This option overrides the setting of the kubeconfig.
    default: ''
    type: raw
    vars:
      - name: ansible_kubectl_verify_ssl
      - name: ansible_kubectl_validate_certs
    env:
      - name: K8S_AUTH_VERIFY_SSL
    aliases: [ kubectl_verify_ssl ]
  remote_user:
    description:
      - Name or number of the user in the pod that tasks run as. The default is the user of the container.
      - Only an agent that runs as root can change the user. A user that the container does not have makes the host
        unreachable, as with ssh.
      - C(ansible_user) has no effect, because many images do not have that user.
    type: str
    vars:
      - name: ansible_podbridge_user
  pipelining:
    description:
      - Whether to send modules through the connection instead of copying them to the pod first.
    default: true
    type: bool
    vars:
      - name: ansible_pipelining
    env:
      - name: ANSIBLE_PIPELINING
    ini:
      - section: defaults
        key: pipelining
      - section: connection
        key: pipelining
  podbridge:
    description:
      - Whether this host uses podbridge. V(false) means P(kubernetes.core.kubectl#connection) instead.
      - The environment variable C(PODBRIDGE_DISABLE) with a value other than C(0) does the same for all hosts.
    default: true
    type: bool
    vars:
      - name: ansible_podbridge
  podbridge_oom:
    description:
      - Result of a task if its container exceeds the memory limit. The result is a failed task or an unreachable host.
      - The default is V(failed), because a retry on an unreachable host would exceed the limit again.
    default: failed
    choices: [ failed, unreachable ]
    type: str
    vars:
      - name: ansible_podbridge_oom
  podbridge_warm_python:
    description:
      - Whether the agent may run modules in processes that it forks from a prepared Python, instead of a new one each.
    default: true
    type: bool
    vars:
      - name: ansible_podbridge_warm_python
  podbridge_executable:
    description:
      - Path of the program podbridge, or its name in C(PATH). The plugin starts bridges with it.
    default: podbridge
    type: str
    vars:
      - name: ansible_podbridge_executable
    env:
      - name: PODBRIDGE_EXECUTABLE
  podbridge_link:
    description:
      - Link that the bridge uses to reach the agent in the pod.
      - V(auto) starts with V(exec-proxy) and changes to V(direct) if the address of the pod can be reached.
      - V(exec-proxy) goes through the API server, with an exec call in the pod.
      - V(kubectl) does the same with the C(kubectl) in PATH as the client; V(auto) uses it where its own client cannot
        connect.
      - V(direct) is a TLS connection to the address of the pod.
      - V(local) is a Unix socket on the controller, without Kubernetes.
    default: auto
    choices: [ auto, exec-proxy, direct, kubectl, local ]
    type: str
    vars:
      - name: ansible_podbridge_link
    env:
      - name: PODBRIDGE_LINK
  podbridge_agent_socket:
    description:
      - Path of the agent's Unix socket, for the link V(local).
    default: ''
    type: str
    vars:
      - name: ansible_podbridge_agent_socket
    env:
      - name: PODBRIDGE_AGENT_SOCKET
  podbridge_connect_timeout:
    description:
      - Seconds after which a pod that does not answer is unreachable.
    default: 30
    type: int
    vars:
      - name: ansible_podbridge_connect_timeout
    env:
      - name: PODBRIDGE_CONNECT_TIMEOUT
  podbridge_idle:
    description:
      - Seconds without a task after which a bridge that this plugin started ends. V(0) means never.
    default: 600
    type: int
    vars:
      - name: ansible_podbridge_idle
    env:
      - name: PODBRIDGE_IDLE
"""

EXAMPLES = r"""
- name: Run a command in a pod
  hosts: localhost
  gather_facts: false
  vars:
    ansible_connection: podbridge.zuul.kubectl
    ansible_kubectl_namespace: my-namespace
    ansible_kubectl_pod: my-pod
  tasks:
    - name: Say hello
      ansible.builtin.command: echo "Hello, World!"
"""

import base64
import contextlib
import difflib
import errno
import functools
import hashlib
import json
import os
import re
import shlex
import socket
import stat
import struct
import subprocess
import tempfile
import time

import yaml
from ansible.errors import AnsibleConnectionFailure, AnsibleError, AnsibleFileNotFound
from ansible.module_utils.common.text.converters import to_bytes, to_text
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.loader import connection_loader
from ansible.utils.display import Display

from ansible import constants as C
from ansible.plugins.connection import ConnectionBase

display = Display()

# Variables that decide which API server is reached and trusted, or what a bridge keeps. Every target has them.
CONNECTION_VARIABLES = frozenset(
    "ALL_PROXY HTTPS_PROXY HTTP_PROXY KUBERNETES_MASTER KUBERNETES_SERVICE_HOST KUBERNETES_SERVICE_PORT NO_PROXY "
    "PODBRIDGE_AGENT PODBRIDGE_LEASE POD_NAMESPACE SSL_CERT_DIR SSL_CERT_FILE all_proxy http_proxy https_proxy "
    "no_proxy".split()
)
# Variables that no credential plugin gets, because they differ from one shell or task to the next; further prefixes.
SESSION_VARIABLES = frozenset(
    "COLUMNS INVOCATION_ID JOURNAL_STREAM LINES LS_COLORS MAKEFLAGS MAKELEVEL MFLAGS OLDPWD PROMPT_COMMAND PS1 PS2 PS4 "
    "PWD SHLVL SSH_CLIENT SSH_CONNECTION SSH_TTY STY TERM TMUX TMUX_PANE WINDOWID XDG_SESSION_ID _".split()
)
SESSION_PREFIXES = ("ANSIBLE_", "K8S_AUTH_", "PODBRIDGE_")
# Options of kubectl and of `kubectl exec` by their letters; those that are switches; those that name local files.
SHORT_FLAGS = {"c": "container", "n": "namespace", "s": "server", "v": "v", "i": "stdin", "q": "quiet", "t": "tty"}
SWITCHES = frozenset(
    "disable-compression insecure-skip-tls-verify match-server-version quiet stdin tty warnings-as-errors".split()
)
FILE_FLAGS = frozenset("certificate-authority client-certificate client-key kubeconfig".split())
SLOT_GRACE = 1  # seconds after which a client looks whether Zuul can still restart the bridge of a slot
LOCAL_TIMEOUT = 10  # seconds that an answer may take which does not depend on the pod


class BridgeLost(Exception):
    """The bridge does not answer, or the connection to it has ended before the result."""


def byte_string(value):
    """Returns a byte string of the protocol as a JSON value: a string, or {"b64": …} if it is not UTF-8."""
    data = to_bytes(value, errors="surrogate_or_strict")
    with contextlib.suppress(UnicodeDecodeError):
        return data.decode("utf-8")
    return {"b64": base64.b64encode(data).decode("ascii")}


def target_key(target):
    """Returns the key of a target, 16 hexadecimal digits: the name of its bridge's socket without `.sock`."""
    text = json.dumps(target, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def absolute_path(path):
    """Returns the absolute path as podbridge writes it, None for an empty one or an option that is not set.

    `..` stays, because after a symbolic link it leads elsewhere.
    """
    return (re.sub(r"(/\.?)+(?=/|$)", "", os.path.join(os.getcwd(), path)) or "/") if path else None


def may_run_plugin(target):
    """Returns whether the kubeconfig of a target may name a credential plugin.

    Files are not parsed, so that podbridge decides the same without a YAML parser that agrees with this one in
    everything: a key `exec` needs these letters, an escape or another encoding.
    """
    flags = [] if "kubeconfig_data" in target else parse_extra_args(shlex.join(target.get("extra_args", [])))[0]
    named = [flag.partition("=")[2] for flag in flags if flag.startswith("--kubeconfig=")]
    paths = [target[key] for key in ("kubeconfig_file", "default_kubeconfig") if key in target]
    contents = [json.dumps(target.get("kubeconfig_data"), ensure_ascii=False).encode()]
    for path in [*filter(None, named[-1:])] or paths or filter(None, target.get("kubeconfig", "").split(":")):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            contents.append(file.read())
    return any(sign in content for content in contents for sign in (b"exec", b"\\", b"\0"))


def complete_target(target, environ):
    """Returns the target with what the environment decides: the kubeconfig, and the variables of its bridge.

    A variable that is not UTF-8 is left out of the key and of the bridge's environment alike. podbridge does the same;
    both are tested with tests/vectors/targets.json.
    """
    target, local = dict(target), target.get("link") == "local"
    if "kubeconfig_file" not in target and "kubeconfig_data" not in target:
        paths = [absolute_path(path) for path in environ.get("KUBECONFIG", "").split(":") if path]
        home = environ.get("HOME", "")
        if environ.get("KUBECONFIG"):
            target["kubeconfig"] = ":".join(paths)
        elif os.path.isabs(home) and not local:
            target["default_kubeconfig"] = absolute_path(os.path.join(home, ".kube/config"))
    names, env = {"PODBRIDGE_LEASE"} if local else CONNECTION_VARIABLES, {}
    plugin = not local and may_run_plugin(target)
    for name in environ if plugin else names:
        if name in names or name not in SESSION_VARIABLES and not name.startswith(SESSION_PREFIXES):
            with contextlib.suppress(UnicodeEncodeError):
                env.update({name: value} if (value := environ.get(name)) and (name + value).encode() else {})
    env.update(target.pop("env", {}))
    return {**target, "env": env} if env else target


def parse_extra_args(text):
    """Returns the words of kubectl's options as `--name=value`, with absolute paths, and the container that they name.

    What kubectl would not take stays as it is, and podbridge refuses it by name.
    """
    try:
        rest = shlex.split(text)[::-1] if text else []
    except ValueError:  # an apostrophe that quotes nothing
        rest = text.split()[::-1]
    flags, container = [], None
    while rest:
        word = rest.pop()
        name, equals, value = word[2:].partition("=")
        if not word.startswith("--"):
            name, equals, value = SHORT_FLAGS.get(word[1:2] if word.startswith("-") else ""), word[2:], word[2:]
            if name in SWITCHES and value and not value.startswith("="):
                rest.append(f"-{value}")  # further letters
                equals = ""
            value = value.removeprefix("=") or value  # the value of `-n=` is `=`
        if name and not equals:
            value = "true" if name in SWITCHES else rest.pop() if rest else None
        if not name or value is None:
            flags.append(word)
        elif name == "container":
            container = value
        else:
            flags.append(f"--{name}={absolute_path(value) if value and name in FILE_FLAGS else value}")
    return flags, container


def socket_directory(environ):
    """Returns the directory of the sockets of this user's bridges; it need not exist.

    After `su` or `sudo -E`, XDG_RUNTIME_DIR may be another user's directory, or one that the system has removed.
    podbridge does the same; both are tested with tests/vectors/socket-directories.json.
    """
    runtime, directory = environ.get("XDG_RUNTIME_DIR", ""), f"/tmp/podbridge-{os.geteuid()}"
    with contextlib.suppress(OSError):
        status = os.stat(runtime)
        own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
        if own and os.path.isabs(runtime) and os.access(runtime, os.W_OK | os.X_OK):
            directory = os.path.join(runtime, "podbridge")
    return environ.get("PODBRIDGE_DIR") or directory


def pod_name(word):
    """Returns the name of the pod: its other spellings have the same bridge. The bridge resolves other objects."""
    return re.sub("^(pods?|po)/", "", word, flags=re.IGNORECASE)


def zuul_slot_socket(target):
    """Returns the path of the socket beside the kubeconfig on which Zuul's bridge for this pod listens, else None.

    A slot's bridge has the credentials of the kubeconfig, which may also say that no certificate is verified. The
    kubeconfig may be half written, or be none at all, and `"" +` refuses a namespace that is no string.
    """
    path = target.get("kubeconfig_file") or target.get("kubeconfig", "")
    directory = os.path.dirname(path)
    others = "extra_args token username client_cert client_key ca_cert kubeconfig_data server".split()
    if not path or any(key in target for key in others) or target.get("verify_ssl"):
        return None
    server, namespace = "", target.get("namespace")
    with contextlib.suppress(Exception):
        with os.scandir(directory) as entries:
            if not any(stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode) for entry in entries):
                return None
        with open(path, encoding="utf-8-sig") as file:
            config = [*yaml.load_all(file, getattr(yaml, "CSafeLoader", yaml.SafeLoader))][0]
        name = target.get("context") or config["current-context"]
        context = next(item["context"] for item in config["contexts"] if item["name"] == name)
        found = next(item["cluster"] for item in config["clusters"] if item["name"] == context["cluster"])["server"]
        server, namespace = found.rstrip("/"), "" + (namespace or context.get("namespace") or "default")
    identity = {"namespace": namespace or "default", "pod": pod_name(target["pod"]), "server": server}
    path = os.path.join(directory, target_key(identity))
    return path if os.path.exists(path) else None


def slot_may_return(path):
    """Returns whether Zuul may start a bridge again on this socket, on which none listens (docs/client-protocol.md)."""
    with contextlib.suppress(OSError, LookupError):
        if os.statvfs(os.path.dirname(path)).f_flag & os.ST_RDONLY:
            return True  # Zuul's sandbox: the build runs
        record = os.readlink(path + ".loop")
        pid = record.split(" ")[0]
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
        return fields[0] != "Z" and record == f"{pid} {fields[19]} {os.readlink('/proc/self/ns/pid')}"
    return False


def console_address(pod, host, environ):
    """Returns where the bridge serves the live log of a pod that a job made (ADR 23), None for other hosts.

    Zuul's callback looks for it at `ansible_host`. An address of 127.0.0.0/8 there is one of the pod's own if the host
    names its pod apart from it. Zuul reads no log at 127.0.0.1, and the pods of an object change.
    """
    with contextlib.suppress(OSError, TypeError):
        if socket.inet_pton(socket.AF_INET, host)[0] == 127 and host != "127.0.0.1" and "/" not in pod_name(pod):
            return f"{host}:{environ.get('ZUUL_CONSOLE_PORT') or 19885}"
    return None


def path_from_root(path):
    """Returns an absolute path. A relative one starts at the root, as in the stock plugin: a user may have no home."""
    return os.path.normpath(path if path.startswith("/") else "/" + path)


def connect(path, timeout=None):
    """Returns a socket connected to the bridge at `path`; `timeout` is in seconds. Raises BridgeLost."""
    bridge = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # The kernel's limit, 0 for none: with one of Python's, connect fails where it should wait in a full queue.
        bridge.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", int(timeout or -1) + 1, 0))
        bridge.connect(path)
        bridge.settimeout(timeout)
        if struct.unpack("3i", bridge.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1] != os.geteuid():
            raise PermissionError(errno.EPERM, "the socket belongs to another user")
    except OSError as error:
        bridge.close()
        raise BridgeLost(f"the bridge does not answer on {path}: {error.strerror or error}") from error
    return bridge


class Exchange:
    """One operation: it sends a request to a bridge and receives frames up to the result.

    `dial(timeout)` returns a socket to a bridge. If the bridge dies, the operation goes on over the next one: an exec
    is started once, because agents know its id, and a file transfer starts again. `descriptors` are the files that go
    with the request. `started` is true after a command has started. Closing the exchange early cancels the operation.

    The constants are the types of frames, first those to the bridge, then those from it; the bytes of stdin that may be
    unacknowledged, and the bytes in one frame; the seconds from the first death of a bridge after which no further
    bridge is tried, and the seconds that a connection has to last to end that period.

    `_stdin` has the bytes that the agent has not acknowledged, `_acknowledged` the number of those that it has, and
    `_stdin_complete` whether stdin ends after `_stdin`.
    """

    REQUEST, STDIN, STDIN_EOF = 0x01, 0x02, 0x03
    STARTED, STDOUT, STDERR, STDIN_ACK, AGENT, RESULT = 0x10, 0x11, 0x12, 0x13, 0x14, 0x1F
    WINDOW, CHUNK = 1 << 20, 1 << 16
    BRIDGE_DEATHS_WITHIN, STABLE_AFTER = 30, 1

    def __init__(self, dial, request, descriptors=(), timeout=None):
        self._dial, self._request, self._descriptors, self._timeout = dial, request, list(descriptors), timeout
        self._agent, self.started, self._first_death = None, False, None
        self._received = {self.STDOUT: 0, self.STDERR: 0}
        self._stdin, self._acknowledged, self._stdin_complete = bytearray(), 0, False
        self._send_request()

    def _send_request(self):
        """Connects to a bridge and sends the request, with the progress so far if an agent has it.

        If the bridge closes the connection here, the next read raises BridgeLost.
        """
        self._buffer, self._sent, self._eof_sent = bytearray(), 0, False
        request = {"v": 1, **self._request}
        if self._agent:
            out, err = self._received.values()
            progress = {"started": self.started, "stdout": out, "stderr": err, "stdin": self._acknowledged}
            request.update(requires=["resume"], resume={"instance": self._agent, **progress})
        payload = json.dumps(request).encode()
        frame = struct.pack(">IB", len(payload) + 1, self.REQUEST) + payload
        self._socket, self._connected_at = self._dial(self._timeout), time.monotonic()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(frame[socket.send_fds(self._socket, [frame], self._descriptors) :])

    def close(self):
        self._socket.close()

    def settimeout(self, timeout):
        self._timeout = timeout
        self._socket.settimeout(timeout)

    def write(self, data, end=False):
        """Queues stdin, which `receive` sends; `end` means that no more follows."""
        self._stdin += data
        self._stdin_complete |= end

    def _send(self, kind, payload=b""):
        """Sends a frame. The bridge may have closed the connection after its result, which can still be read."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(struct.pack(">IB", len(payload) + 1, kind) + payload)

    def _send_stdin(self):
        while self._sent < min(len(self._stdin), self.WINDOW):
            chunk = self._stdin[self._sent : self._sent + self.CHUNK]
            self._send(self.STDIN, chunk)
            self._sent += len(chunk)
        if self._stdin_complete and not self._eof_sent and self._sent == len(self._stdin):
            self._eof_sent = True
            self._send(self.STDIN_EOF)

    def _read(self, count):
        while len(self._buffer) < count:
            try:
                data = self._socket.recv(1 << 18)
            except ConnectionError as error:
                raise BridgeLost(f"the bridge was lost: {error.strerror}") from error
            if not data:
                raise BridgeLost("the bridge ended")
            self._buffer += data
        data, self._buffer[:count] = bytes(self._buffer[:count]), b""
        return data

    def receive(self):
        """Returns the type and the payload of the next frame; a JSON payload as its object.

        Sends queued stdin, and goes on over another bridge if this one dies. Raises BridgeLost when bridges die again
        and again, and TimeoutError after the timeout.
        """
        while True:
            try:
                self._send_stdin()
                length, kind = struct.unpack(">IB", self._read(5))
                payload = self._read(length - 1)
                break
            except BridgeLost:
                self.close()
                now = time.monotonic()
                if self._first_death is None or now - self._connected_at > self.STABLE_AFTER:
                    self._first_death = now
                if now - self._first_death > self.BRIDGE_DEATHS_WITHIN:
                    raise
                time.sleep(0.02)  # a bridge that is ending still accepts connections for a moment
                self._send_request()
        if kind in self._received:
            self._received[kind] += len(payload)
        elif kind == self.STDIN_ACK:
            offset, closed = struct.unpack(">QB", payload)
            newly = max(offset - self._acknowledged, 0)
            self._acknowledged, self._sent = self._acknowledged + newly, self._sent - newly
            del self._stdin[: None if closed else newly]
        else:
            payload = json.loads(payload)
            self.started |= kind == self.STARTED
            self._agent = payload["instance"] if kind == self.AGENT else self._agent
        return kind, payload

    def result(self):
        """Returns the result and drops the frames before it: the data of these operations goes through descriptors."""
        return next(payload for kind, payload in iter(self.receive, None) if kind == self.RESULT)


def temporary_directory_command(shell, basefile=None, system=False, mode=0o700, tmpdir=None):
    """Returns the command of the shell plugin's `mkdtemp`, and after it the same for the system's directories: a user
    without an entry in the passwd file has the home directory /, where `remote_tmp` cannot be made."""
    make = functools.partial(type(shell).mkdtemp, shell, basefile or shell._generate_temp_dir_name())
    commands = [make(system=system, mode=mode, tmpdir=tmpdir)]
    commands += [make(system=True, mode=mode, tmpdir=directory) for directory in shell.get_option("system_tmpdirs")]
    return " || ".join(commands)


class Connection(ConnectionBase):
    """Connection to one container of one pod; its options have the prefix `prefix`.

    ansible.posix.synchronize supports containers only through the transport `docker`: it runs rsync with `docker_cmd`.
    Core gives all variables with `_extras_prefix` to the plugin, also those that no option has. STOCK_METHODS are
    redirected to the stock plugin on hosts that opt out.
    """

    transport = "docker"
    has_pipelining = True
    prefix = "kubectl"
    allow_extras = True
    _extras_prefix = "podbridge"
    STOCK_METHODS = "get_option update_vars _connect exec_command put_file fetch_file close reset".split()

    def set_options(self, task_keys=None, var_options=None, direct=None):
        """Redirects hosts that opt out to the stock plugin, and Windows hosts, for which there is no agent."""
        super().set_options(task_keys=task_keys, var_options=var_options, direct=direct)
        self._warn_of_unknown_variables((var_options or {}).get("_extras") or {})
        for method in self.STOCK_METHODS:
            vars(self).pop(method, None)
        windows = getattr(self._shell, "SHELL_FAMILY", None) == "powershell"
        disabled = os.environ.get("PODBRIDGE_DISABLE", "0") not in ("", "0")
        if windows or disabled or not self.get_option("podbridge"):
            name = {"kubectl": "kubernetes.core.kubectl", "oc": "community.okd.oc"}[self.prefix]
            stock = connection_loader.get(name, self._play_context, os.devnull)
            if stock is None:
                raise AnsibleError(f"this host needs the connection plugin {name}; install its collection")
            stock.set_options(task_keys=task_keys, var_options=var_options, direct=direct)
            self.transport = stock.transport
            for method in self.STOCK_METHODS:
                setattr(self, method, functools.partial(self._call_stock, stock, method))
        else:
            self._shell.mkdtemp = functools.partial(temporary_directory_command, self._shell)

    def _warn_of_unknown_variables(self, names):
        """Warns of variables `ansible_podbridge_…` that no option has; core shows a warning once."""
        known = [name for name in C.config.get_plugin_vars("connection", self._load_name) if "podbridge" in name]
        for name in sorted(set(names).difference(known)):
            message = f"host {self._play_context.remote_addr}: podbridge does not know the variable {name}"
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            display.warning("; did you mean ".join([message, *(f"{known}?" for known in nearest)]))

    def _call_stock(self, stock, method, *args, **kwargs):
        """Calls a method of the stock plugin, with the become plugin that core has set here."""
        stock.set_become_plugin(self.become)
        return getattr(stock, method)(*args, **kwargs)

    def _option(self, name):
        """Returns the option `name` with the prefix of the plugin; None if it is empty or the plugin lacks it."""
        with contextlib.suppress(KeyError):  # the plugin oc has no user name and no password
            return self.get_option(f"{self.prefix}_{name}") or None

    @property
    def container(self):
        """Name of the container, None for the default one. As with kubectl, the option comes before extra_args."""
        return self._option("container") or parse_extra_args(self._option("extra_args") or "")[1]

    @property
    def pod(self):
        return pod_name(str(self._option("pod") or self._play_context.remote_addr))

    def _target(self):
        """Returns the target: the options that name the pod and its cluster, without empty ones.

        A round trip through JSON turns the tagged strings of core into plain ones.
        """
        env = self._option("local_env_vars") or {}
        env = {str(name): str(value) for name, value in (json.loads(env) if isinstance(env, str) else env).items()}
        target = {"pod": self.pod, "env": env, "server": self._option("host")}
        target.update({name: self._option(name) for name in ("namespace", "context", "token", "username", "password")})
        for key in ("client_cert", "client_key", "ca_cert"):
            target[key] = absolute_path(os.path.expanduser(self.get_option(key) or ""))
        kubeconfig = self._option("kubeconfig")
        is_data = isinstance(kubeconfig, dict)
        path = None if is_data else absolute_path(os.path.expanduser(kubeconfig or ""))
        target |= {"kubeconfig_data": kubeconfig} if is_data else {"kubeconfig_file": path}
        if (verify := self.get_option("validate_certs")) not in (None, ""):
            try:
                target["verify_ssl"] = boolean(verify)
            except TypeError:
                raise AnsibleError(f"validate_certs is {verify!r}, and must be true or false") from None
        target["extra_args"] = parse_extra_args(self._option("extra_args") or "")[0]
        target["console"] = console_address(self._option("pod"), self._play_context.remote_addr, os.environ)
        link = self.get_option("podbridge_link")
        target["link"] = None if link == "auto" else link
        if link == "local":
            target["agent_socket"] = absolute_path(os.path.expanduser(self.get_option("podbridge_agent_socket") or ""))
        target = json.loads(json.dumps({key: value for key, value in target.items() if value not in (None, {}, [])}))
        return complete_target(target, {**os.environ, **env} if env else os.environ)

    @property
    def podbridge_command(self):
        """Program and options, as a list, that name this container to the command line; a subcommand follows them.

        The target is in a file that only this user can read, as a command line is shown to all users. Core removes it,
        with its directory, when Ansible ends.
        """
        target = self._target()
        path = os.path.join(C.DEFAULT_LOCAL_TMP, f"podbridge-{target_key(target)}.json")
        if not os.path.exists(path):
            with tempfile.NamedTemporaryFile(dir=C.DEFAULT_LOCAL_TMP, delete=False) as file:  # mode 0600
                file.write(json.dumps(target).encode())
            os.rename(file.name, path)
        words = [f"--target-file={path}"] + [f"--container={self.container}"] * bool(self.container)
        return [self.get_option("podbridge_executable"), *words]

    @property
    def docker_cmd(self):
        """Command that ansible.posix.synchronize runs as `docker_cmd exec -u USER -i HOST rsync …`.

        HOST is ignored. USER counts only with `become`; else it is ansible_user, and the option remote_user counts.
        """
        words = [*self.podbridge_command, "docker", f"--pod={self.pod}"]
        user = self.get_option("remote_user")
        words += ["--become"] if self.become else [f"--user={user}"] * bool(user)
        return shlex.join(words)

    def is_directory(self, path):
        """Returns whether `path` is a directory in the pod; a link to a directory is none."""
        with self._exchange({"op": "stat", "path": byte_string(path), "no_follow": True}) as exchange:
            result = exchange.result()
        self._raise_for_outcome(result)
        return stat.S_ISDIR((result.get("stat") or {"mode": 0})["mode"])

    def _bridge_socket(self, target):
        """Returns the path of the target's socket, or None if the directory is missing; raises if others may use it."""
        given = {name: os.environ.get(name, "") for name in ("PODBRIDGE_DIR", "XDG_RUNTIME_DIR")}
        directory = socket_directory({**given, **target.get("env", {})})
        try:
            status = os.lstat(directory)
        except FileNotFoundError:
            return None
        if (status.st_uid, status.st_mode) != (os.geteuid(), stat.S_IFDIR | 0o700):
            why = f"{directory} is not a directory that only this user can access (mode 0700); "
            raise AnsibleConnectionFailure(why + "remove it, or set PODBRIDGE_DIR")
        return os.path.join(directory, target_key(target) + ".sock")

    def _start_bridge(self, target):
        """Starts a bridge, or finds one that another client has just started, and returns the path of its socket.

        The target goes through a pipe, so that its secrets appear on no command line.
        """
        names = ("executable", "connect_timeout", "idle")
        executable, timeout, idle = (self.get_option(f"podbridge_{name}") for name in names)
        command = [executable, "bridge", f"--connect-timeout={timeout}", f"--idle={idle}"]
        run = functools.partial(subprocess.run, input=json.dumps(target).encode(), capture_output=True, check=False)
        try:
            started = run(command, env={**os.environ, **target.get("env", {})}, timeout=timeout + LOCAL_TIMEOUT)
            answer = json.loads(started.stdout or b"{}")
        except OSError as error:
            raise AnsibleError(
                f"cannot run {executable}: {error.strerror}; install podbridge or set ansible_podbridge_executable"
            ) from error
        except (subprocess.TimeoutExpired, ValueError) as error:
            raise AnsibleConnectionFailure(f"{executable} could not start a bridge: {error}") from error
        if "socket" in answer:
            return answer["socket"]
        reason = answer.get("error", {}).get("message") or to_text(started.stderr).strip()
        raise AnsibleConnectionFailure(f"no bridge for pod {self.pod}: {reason or 'podbridge printed no reason'}")

    def _dial(self, timeout):
        """Returns a socket to the bridge of this target; starts the bridge if it does not run."""
        target = self._target()
        path = zuul_slot_socket(target)
        if path and (bridge := self._dial_zuul_slot(path, timeout)):
            return bridge
        try:
            if path := self._bridge_socket(target):
                return connect(path, timeout)
        except BridgeLost as reason:
            display.vvv(f"PODBRIDGE {reason}", host=self.pod)
        return connect(self._start_bridge(target), timeout)

    def _dial_zuul_slot(self, path, timeout):
        """Returns a socket to the bridge that Zuul keeps for this pod.

        If that bridge has died, waits until Zuul has started it again: a second one would be a rival. Returns None if
        Zuul will not, because the build is over.
        """
        begun = time.monotonic()
        while True:
            try:
                return connect(path, timeout)
            except BridgeLost:
                waited = time.monotonic() - begun
                if waited >= SLOT_GRACE and not slot_may_return(path):
                    return None
                if waited > self.get_option("podbridge_connect_timeout"):
                    raise
            time.sleep(0.1)

    @contextlib.contextmanager
    def _exchange(self, request, descriptors=()):
        """Context manager of an operation on this container; a lost bridge makes the host unreachable."""
        user = self.get_option("remote_user") if request["op"] in ("exec", "put") else None
        parts = {"container": self.container, "user": str(user) if user else None}
        request.update((key, value) for key, value in parts.items() if value)
        exchange = None
        try:
            with contextlib.closing(Exchange(self._dial, request, descriptors)) as exchange:
                yield exchange
        except BridgeLost as reason:
            state = "a command was running" if exchange and exchange.started else "nothing was run"
            raise AnsibleConnectionFailure(f"pod {self.pod}: {reason}; {state}") from reason

    def _raise_for_outcome(self, result):
        """Raises Ansible's error for a result, unless it is `ok`, or a command has ended or could not start.

        A user that does not exist makes the host unreachable, as with ssh.
        """
        outcome, message = result["outcome"], result.get("message") or f"the command was {result['outcome']}"
        if outcome == "oom_killed" and self.get_option("podbridge_oom") == "failed":
            raise AnsibleError(message)
        if outcome in ("unreachable", "lost", "cancelled", "timed_out", "oom_killed") or result.get("step") == "user":
            raise AnsibleConnectionFailure(message)
        if outcome not in ("ok", "exited", "signaled", "start_failed"):
            raise AnsibleError(message)

    def _connect(self):
        """Each operation opens its own connection to the bridge; the bridge keeps the connection to the pod."""
        self._connected = True
        return self

    def exec_command(self, cmd, in_data=None, sudoable=True):
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        display.vvv(f"EXEC {to_text(cmd)}", host=self.pod)
        argv = [byte_string(self._play_context.executable or "/bin/sh"), "-c", byte_string(cmd)]
        request = {"op": "exec", "exec_id": os.urandom(16).hex(), "argv": argv}
        request["cold_python"] = not self.get_option("podbridge_warm_python")
        if self.become and self.become.expect_prompt() and sudoable:
            return self._exec_with_prompt(request, in_data)
        with open(os.memfd_create("stdin", os.MFD_CLOEXEC), "wb", buffering=0) as memory:
            memory.write(to_bytes(in_data or b""))
            request["stdin"] = "fd" if in_data else "none"
            with self._exchange(request, [memory.fileno()] if in_data else ()) as exchange:
                return self._collect_output(exchange)

    def _collect_output(self, exchange, output=b""):
        """Returns exit code, stdout and stderr of a command; `output` is the start of stdout."""
        streams = {Exchange.STDOUT: [output], Exchange.STDERR: []}
        exchange.settimeout(None)
        for kind, payload in iter(exchange.receive, None):
            if kind == Exchange.RESULT:
                return self._exit_result(payload, *(b"".join(chunks) for chunks in streams.values()))
            if kind == Exchange.STARTED and "python" in payload:
                display.vvv(f"PYTHON {payload['python']}", host=self.pod)
            streams.get(kind, []).append(payload)

    def _exit_result(self, result, stdout, stderr):
        """Returns exit code (128 + n for signal n), stdout and stderr for the result of an exec; raises for others."""
        self._raise_for_outcome(result)
        if result["outcome"] == "start_failed":
            if result.get("step") not in ("exec", "interpreter"):
                raise AnsibleError(result["message"])
            stderr = to_bytes(result["message"])
        return (128 + result["signal"] if result["outcome"] == "signaled" else result["code"]), stdout, stderr

    def _exec_with_prompt(self, request, in_data):
        """Runs a command that asks for a password (sudo, su) and answers the prompt; sends stdin only after that.

        If the become program ends without changing the user, its output has the reason.
        """
        request["stdin"] = "stream"
        seen, answered = b"", None
        with self._exchange(request) as exchange:
            exchange.settimeout(max(self._play_context.timeout, self.get_option("podbridge_connect_timeout")))
            try:
                while not self.become.check_success(seen):
                    if answered is None and self.become.check_password_prompt(seen):
                        answered = len(seen)
                        password = self.become.get_option("become_pass", playcontext=self._play_context)
                        exchange.write(to_bytes(password, errors="surrogate_or_strict") + b"\n")
                    elif answered is not None and self.become.check_incorrect_password(seen[answered:]):
                        raise AnsibleError(f"Incorrect {self.become.name} password")
                    kind, payload = exchange.receive()
                    if kind in (Exchange.STDOUT, Exchange.STDERR):
                        seen += payload
                    elif kind == Exchange.RESULT:
                        return self._exit_result(payload, b"", seen)
            except TimeoutError as error:
                raise AnsibleError(f"timeout waiting for the {self.become.name} prompt: {to_text(seen)}") from error
            rest = seen.split(to_bytes(self.become.success), 1)[1].lstrip(b"\r").removeprefix(b"\n")
            exchange.write(to_bytes(in_data or b""), end=True)
            return self._collect_output(exchange, rest)

    def _transfer(self, request, descriptor):
        """Copies a file; raises AnsibleFileNotFound if the remote file of a `get` is missing."""
        with self._exchange(request, [descriptor]) as exchange:
            result = exchange.result()
        if result["outcome"] == "failed" and result.get("kind") == "not_found" and request["op"] == "get":
            raise AnsibleFileNotFound(result["message"])
        self._raise_for_outcome(result)

    def put_file(self, in_path, out_path):
        super().put_file(in_path, out_path)
        out_path = path_from_root(out_path)
        display.vvv(f"PUT {in_path} TO {out_path}", host=self.pod)
        try:
            source = open(to_bytes(in_path, errors="surrogate_or_strict"), "rb")
        except OSError as error:
            kind = AnsibleFileNotFound if error.errno == errno.ENOENT else AnsibleError
            raise kind(f"cannot read the local file {in_path}: {error.strerror}") from error
        with source:
            self._transfer({"op": "put", "path": byte_string(out_path)}, source.fileno())

    def fetch_file(self, in_path, out_path):
        """Copies a file from the pod. The bridge may read the temporary file back to compare what it wrote."""
        super().fetch_file(in_path, out_path)
        in_path = path_from_root(in_path)
        display.vvv(f"FETCH {in_path} TO {out_path}", host=self.pod)
        destination = to_bytes(out_path, errors="surrogate_or_strict")
        temporary = os.path.join(os.path.dirname(destination), b".podbridge-" + os.urandom(16).hex().encode())
        try:
            with open(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), "rb") as sink:
                self._transfer({"op": "get", "path": byte_string(in_path)}, sink.fileno())
            os.replace(temporary, destination)
        except OSError as error:
            raise AnsibleError(f"cannot write {out_path}: {error.strerror}") from error
        finally:
            if os.path.lexists(temporary):
                os.unlink(temporary)

    def close(self):
        self._connected = False

    def reset(self):
        """Makes the bridge connect to the pod again. Raises nothing: an error would end the play for every host."""
        try:
            target = self._target()
            if path := zuul_slot_socket(target) or self._bridge_socket(target):
                dial = functools.partial(connect, path)
                with contextlib.closing(Exchange(dial, {"op": "relink"}, timeout=LOCAL_TIMEOUT)) as exchange:
                    exchange.BRIDGE_DEATHS_WITHIN = 0
                    display.vvv(f"RESET {exchange.result()['outcome']}", host=self.pod)
        except Exception as reason:
            display.vvv(f"RESET without a bridge: {reason}", host=self.pod)
