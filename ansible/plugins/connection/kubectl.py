# Copyright: podbridge contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible's connection to a pod through podbridge: glue, and the client protocol (docs/client-protocol.md) on the
standard library. It knows nothing of Kubernetes: the options go to the bridge as they are.
"""

from __future__ import annotations

DOCUMENTATION = r"""
author: podbridge contributors (!UNKNOWN)
name: kubectl
short_description: Execute tasks in pods running on Kubernetes, over one warm connection
description:
  - Runs tasks in, and puts and fetches files to and from, pods of a Kubernetes cluster, through a I(podbridge) bridge,
    which is started on demand and keeps one connection to the pod.
  - Takes the options, variables and environment variables of P(kubernetes.core.kubectl#connection), with the
    same meaning.
version_added: 0.1.0
requirements:
  - podbridge (binary) on the controller
options:
  kubectl_pod:
    description:
      - Pod name. Required when the host name does not match the pod name.
    default: ''
    type: str
    vars:
      - name: ansible_kubectl_pod
    env:
      - name: K8S_AUTH_POD
  kubectl_container:
    description:
      - Container name. Without it the pod's default container (annotation C(kubectl.kubernetes.io/default-container))
        is used, else its first one.
    default: ''
    type: str
    vars:
      - name: ansible_kubectl_container
    env:
      - name: K8S_AUTH_CONTAINER
  kubectl_namespace:
    description:
      - The namespace of the pod. Without it, that of the context.
    default: ''
    type: str
    vars:
      - name: ansible_kubectl_namespace
    env:
      - name: K8S_AUTH_NAMESPACE
  kubectl_extra_args:
    description:
      - Further global options of kubectl, for example C(--as=ci). They are never put on a command line.
    default: ''
    type: str
    vars:
      - name: ansible_kubectl_extra_args
    env:
      - name: K8S_AUTH_EXTRA_ARGS
  kubectl_local_env_vars:
    description:
      - Environment variables for the bridge on the controller, for example C(HTTPS_PROXY).
    default: {}
    type: dict
    vars:
      - name: ansible_kubectl_local_env_vars
  kubectl_kubeconfig:
    description:
      - Path to a kubectl config file, or its content as a dictionary. Defaults to C(KUBECONFIG), else
        I(~/.kube/config).
    default: ''
    type: raw
    vars:
      - name: ansible_kubectl_kubeconfig
      - name: ansible_kubectl_config
    env:
      - name: K8S_AUTH_KUBECONFIG
  kubectl_context:
    description:
      - The name of a context found in the config file.
    default: ''
    type: str
    vars:
      - name: ansible_kubectl_context
    env:
      - name: K8S_AUTH_CONTEXT
  kubectl_host:
    description:
      - URL for accessing the API.
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
      - User name for authenticating with the API.
    default: ''
    type: str
    vars:
      - name: ansible_kubectl_username
      - name: ansible_kubectl_user
    env:
      - name: K8S_AUTH_USERNAME
  kubectl_password:
    description:
      - Password for authenticating with the API.
    default: ''
    type: str
    vars:
      - name: ansible_kubectl_password
    env:
      - name: K8S_AUTH_PASSWORD
  kubectl_token:
    description:
      - Bearer token for authenticating with the API.
    type: str
    vars:
      - name: ansible_kubectl_token
      - name: ansible_kubectl_api_key
    env:
      - name: K8S_AUTH_TOKEN
      - name: K8S_AUTH_API_KEY
  client_cert:
    description:
      - Path to a certificate used to authenticate with the API.
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
      - Path to a key file used to authenticate with the API.
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
      - Path to a CA certificate used to authenticate with the API.
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
      - Whether to verify the API server's certificate. Defaults to what the config file says, else V(true).
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
      - The user in the pod that tasks run as, a name or number; needs an agent that runs as root. A user
        that the container does not have makes the host unreachable, as with ssh. Without it
        tasks run as the container's user. C(ansible_user) has no influence, as many images have no such user.
    type: str
    vars:
      - name: ansible_podbridge_user
  pipelining:
    description:
      - Send modules through the connection instead of copying them to the pod first.
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
      - V(false) uses P(kubernetes.core.kubectl#connection) for this host instead.
    default: true
    type: bool
    vars:
      - name: ansible_podbridge
  podbridge_oom:
    description:
      - What a container that exceeded its memory limit under a task is. A retry would only repeat it,
        so it is V(failed).
    default: failed
    choices: [ failed, unreachable ]
    type: str
    vars:
      - name: ansible_podbridge_oom
  podbridge_executable:
    description:
      - Path of the binary that starts a bridge, or its name in C(PATH).
    default: podbridge
    type: str
    vars:
      - name: ansible_podbridge_executable
    env:
      - name: PODBRIDGE_EXECUTABLE
  podbridge_link:
    description:
      - How the bridge reaches the agent.
    default: auto
    choices: [ auto, exec-proxy, direct, local ]
    type: str
    vars:
      - name: ansible_podbridge_link
    env:
      - name: PODBRIDGE_LINK
  podbridge_agent_socket:
    description:
      - The agent's Unix socket, for the link V(local).
    default: ''
    type: str
    vars:
      - name: ansible_podbridge_agent_socket
    env:
      - name: PODBRIDGE_AGENT_SOCKET
  podbridge_connect_timeout:
    description:
      - Seconds until a pod that does not answer is unreachable.
    default: 30
    type: int
    vars:
      - name: ansible_podbridge_connect_timeout
    env:
      - name: PODBRIDGE_CONNECT_TIMEOUT
  podbridge_idle:
    description:
      - Seconds without a task after which a bridge started by this plugin ends; V(0) is never.
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
import errno
import functools
import hashlib
import json
import os
import shlex
import socket
import stat
import struct
import subprocess
import time
import uuid

import yaml
from ansible.errors import AnsibleConnectionFailure, AnsibleError, AnsibleFileNotFound
from ansible.module_utils.common.text.converters import to_bytes, to_text
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.plugins.loader import connection_loader
from ansible.utils.display import Display

from ansible.plugins.connection import ConnectionBase

display = Display()

LOCAL_TIMEOUT = 10  # seconds, for answers that need no pod


class Lost(Exception):
    """A bridge does not answer, or no longer."""


def octets(value):
    """A byte string as JSON carries it: text, or base64 where it is not UTF-8."""
    data = to_bytes(value, errors="surrogate_or_strict")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(data).decode("ascii")}


def target_key(target):
    """The name that a target's bridge is found by."""
    text = json.dumps(target, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def socket_directory(environ):
    """Where this user's bridges listen."""
    runtime = environ.get("XDG_RUNTIME_DIR")
    default = os.path.join(runtime, "podbridge") if runtime else f"/tmp/podbridge-{os.geteuid()}"
    return environ.get("PODBRIDGE_DIR") or default


def slot(target):
    """The socket of the bridge that Zuul keeps for this pod, beside its kubeconfig; None if there is none."""
    path = target.get("kubeconfig", "")
    directory = os.path.dirname(path)
    try:
        with os.scandir(directory) as entries:
            if target.get("extra_args") or not any(stat.S_ISSOCK(entry.stat().st_mode) for entry in entries):
                return None
    except OSError:
        return None
    server, namespace = "", target.get("namespace")
    with contextlib.suppress(OSError, yaml.YAMLError, LookupError, TypeError, StopIteration):
        with open(path, encoding="utf-8") as file:
            config = yaml.load(file, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        name = target.get("context") or config["current-context"]
        context = next(item["context"] for item in config["contexts"] if item["name"] == name)
        server = next(item["cluster"] for item in config["clusters"] if item["name"] == context["cluster"])["server"]
        namespace = namespace or context.get("namespace")
    server = target.get("server") or server
    identity = {"namespace": namespace or "default", "pod": target["pod"], "server": server.rstrip("/")}
    path = os.path.join(directory, target_key(identity))
    return path if os.path.exists(path) else None


def login_path(path):
    """As the stock plugin: a relative path begins at the root, as a container need not have a home."""
    return os.path.normpath(path if path.startswith("/") else "/" + path)


def connect(path, timeout=None):
    """A socket to the bridge on `path`."""
    bridge = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bridge.settimeout(timeout)
        bridge.connect(path)
        credentials = bridge.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        if struct.unpack("3i", credentials)[1] != os.geteuid():
            raise PermissionError(errno.EPERM, "it is another user's")
    except OSError as error:
        bridge.close()
        raise Lost(f"the bridge does not answer on {path}: {error.strerror or error}") from error
    return bridge


class Exchange:
    """One operation: a request to a bridge, frames, a result. If the bridge dies, the next one that `dial(timeout)`
    finds goes on where it was: an exec starts once, by its id, and files begin again. Closing it early cancels."""

    REQUEST, STDIN, STDIN_EOF = 0x01, 0x02, 0x03  # types of frames, to the bridge and (below) from it
    STARTED, STDOUT, STDERR, STDIN_ACK, AGENT, RESULT = 0x10, 0x11, 0x12, 0x13, 0x14, 0x1F
    WINDOW, CHUNK = 1 << 20, 1 << 16  # bytes of stdin that may be on their way, and in one frame
    DYING, LIVED = 30, 1  # seconds: bridges may die in a row; one that lived so long begins another row

    def __init__(self, dial, request, descriptors=(), timeout=None):
        self._dial, self._request, self._descriptors, self._timeout = dial, request, list(descriptors), timeout
        self._agent, self.started, self._dying = None, False, None
        self._received = {self.STDOUT: 0, self.STDERR: 0}
        self._stdin, self._taken, self._end = bytearray(), 0, False  # not acknowledged, acknowledged, complete
        self._begin()

    def _begin(self):
        self._buffer, self._sent, self._end_sent = bytearray(), 0, False
        request = {"v": 1, **self._request}
        if self._agent:
            out, err = self._received.values()
            progress = {"started": self.started, "stdout": out, "stderr": err, "stdin": self._taken}
            request.update(requires=["resume"], resume={"instance": self._agent, **progress})
        payload = json.dumps(request).encode()
        frame = struct.pack(">IB", len(payload) + 1, self.REQUEST) + payload
        self._socket, self._dialed = self._dial(self._timeout), time.monotonic()
        # A failure shows as the end of the stream when the answer is read.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            rest = frame[socket.send_fds(self._socket, [frame], self._descriptors) :]
            if rest:
                self._socket.sendall(rest)

    def close(self):
        self._socket.close()

    def settimeout(self, timeout):
        self._timeout = timeout
        self._socket.settimeout(timeout)

    def write(self, data, end=False):
        """Queues stdin; `receive` sends it."""
        self._stdin += data
        self._end |= end

    def _send(self, kind, payload=b""):
        # After a failure the result that the bridge sent before it closed is still to be read.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(struct.pack(">IB", len(payload) + 1, kind) + payload)

    def _send_stdin(self):
        while self._sent < min(len(self._stdin), self.WINDOW):
            chunk = self._stdin[self._sent : self._sent + self.CHUNK]
            self._send(self.STDIN, chunk)
            self._sent += len(chunk)
        if self._end and not self._end_sent and self._sent == len(self._stdin):
            self._end_sent = True
            self._send(self.STDIN_EOF)

    def _read(self, count):
        while len(self._buffer) < count:
            try:
                data = self._socket.recv(1 << 18)
            except ConnectionError as error:
                raise Lost(f"the bridge was lost: {error.strerror}") from error
            if not data:
                raise Lost("the bridge ended")
            self._buffer += data
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    def receive(self):
        """The next frame: its type, and its payload or, for JSON, its object."""
        while True:
            try:
                self._send_stdin()
                length, kind = struct.unpack(">IB", self._read(5))
                payload = self._read(length - 1)
                break
            except Lost:
                self.close()
                now = time.monotonic()
                if self._dying is None or now - self._dialed > self.LIVED:
                    self._dying = now
                if now - self._dying > self.DYING:
                    raise
                time.sleep(0.02)  # a dying one still accepts connections for a moment
                self._begin()
        if kind in self._received:
            self._received[kind] += len(payload)
        elif kind == self.STDIN_ACK:
            offset, closed = struct.unpack(">QB", payload)
            newly = max(offset - self._taken, 0)
            self._taken += newly
            self._sent -= newly
            del self._stdin[: None if closed else newly]
        else:
            payload = json.loads(payload)
            self.started |= kind == self.STARTED
            self._agent = payload["instance"] if kind == self.AGENT else self._agent
        return kind, payload

    def result(self):
        """Skips to the result, for operations whose data goes through descriptors."""
        frames = iter(self.receive, None)
        return next(payload for kind, payload in frames if kind == self.RESULT)


class Connection(ConnectionBase):
    """Tasks in one container of one pod."""

    transport = "docker"  # to `synchronize`, which knows no other way to a container than docker's: see docker_cmd
    has_pipelining = True
    prefix = "kubectl"  # of the options; oc.py has another
    # Of every plugin.
    METHODS = ("get_option", "update_vars", "_connect", "exec_command", "put_file", "fetch_file", "close", "reset")

    def set_options(self, task_keys=None, var_options=None, direct=None):
        super().set_options(task_keys=task_keys, var_options=var_options, direct=direct)
        for method in self.METHODS:
            vars(self).pop(method, None)
        # There is no agent for Windows.
        windows = getattr(self._shell, "SHELL_FAMILY", None) == "powershell"
        disabled = os.environ.get("PODBRIDGE_DISABLE", "0") not in ("", "0")
        if windows or disabled or not self.get_option("podbridge"):
            name = {"kubectl": "kubernetes.core.kubectl", "oc": "community.okd.oc"}[self.prefix]
            stock = connection_loader.get(name, self._play_context, os.devnull)
            if stock is None:
                raise AnsibleError(f"this host needs {name}, whose collection is not installed")
            stock.set_options(task_keys=task_keys, var_options=var_options, direct=direct)
            self.transport = stock.transport
            for method in self.METHODS:
                setattr(self, method, functools.partial(self._through, stock, method))

    def _through(self, stock, method, *args, **kwargs):
        """The stock plugin's method, with what core has given to this one."""
        stock.set_become_plugin(self.become)
        return getattr(stock, method)(*args, **kwargs)

    def _option(self, name):
        try:
            value = self.get_option(f"{self.prefix}_{name}")
        except KeyError:  # oc has no user name and password
            return None
        return value or None

    @property
    def pod(self):
        return str(self._option("pod") or self._play_context.remote_addr)

    def _target(self):
        """What the bridge is asked for, and found by."""
        env = self._option("local_env_vars") or {}
        env = {str(name): str(value) for name, value in (json.loads(env) if isinstance(env, str) else env).items()}
        target = {"pod": self.pod, "env": env, "server": self._option("host")}
        target.update({name: self._option(name) for name in ("namespace", "context", "token", "username", "password")})
        for key in ("client_cert", "client_key", "ca_cert"):
            path = self.get_option(key)
            target[key] = os.path.abspath(os.path.expanduser(path)) if path else None
        kubeconfig = self._option("kubeconfig") or env.get("KUBECONFIG") or os.environ.get("KUBECONFIG")
        if isinstance(kubeconfig, dict):
            target["kubeconfig_data"] = kubeconfig
        elif kubeconfig:
            paths = [os.path.abspath(os.path.expanduser(path)) for path in kubeconfig.split(":") if path]
            target["kubeconfig"] = ":".join(paths)
        verify = self.get_option("validate_certs")
        if verify not in (None, "") and not boolean(verify, strict=False):
            target["verify_ssl"] = False
        target["extra_args"] = shlex.split(self._option("extra_args") or "")
        link, agent = self.get_option("podbridge_link"), self.get_option("podbridge_agent_socket")
        if link != "auto":
            target["link"] = link
        if link == "local" and agent:
            target["agent_socket"] = os.path.abspath(agent)
        # Through JSON: core tags the strings of templates.
        return json.loads(json.dumps({key: value for key, value in target.items() if value not in (None, {}, [])}))

    @property
    def podbridge_command(self):
        """`podbridge` and the options that name this container to it; `synchronize` puts a subcommand after them."""
        flags = {"ca_cert": "certificate-authority", "client_cert": "client-certificate"}
        keys = ("server", *flags, "client_key", "kubeconfig", "context", "namespace", "link", "agent_socket")
        target = self._target()
        secret = [name for name in ("kubeconfig_data", "token", "username", "password", "env") if name in target]
        if secret:
            raise AnsibleError(
                "synchronize runs podbridge by its command line, which cannot carry "
                f"{', '.join(secret)}: give this host a kubeconfig"
            )
        given = [(flags.get(key, key.replace("_", "-")), target[key]) for key in keys if key in target]
        words = [f"--{flag}={value}" for flag, value in given] + target.get("extra_args", [])
        words += [f"--container={self._option('container')}"] * bool(self._option("container"))
        words += ["--insecure-skip-tls-verify"] * (target.get("verify_ssl") is False)
        return [self.get_option("podbridge_executable"), *words]

    @property
    def docker_cmd(self):
        """What `synchronize` puts before `exec -u USER -i HOST rsync …`; USER counts if it was become, HOST never."""
        words = [*self.podbridge_command, "docker", f"--pod={self.pod}"]
        user = self.get_option("remote_user")
        words += ["--become"] if self.become else [f"--user={user}"] * bool(user)
        return shlex.join(words)

    def is_directory(self, path):
        """Whether it is one in the pod, and not a link to one; `synchronize` asks."""
        with self._exchange({"op": "stat", "path": octets(path), "no_follow": True}) as exchange:
            result = exchange.result()
        self._require(result)
        return stat.S_ISDIR((result.get("stat") or {"mode": 0})["mode"])

    def _bridge_socket(self, target):
        directory = socket_directory({**os.environ, **target.get("env", {})})
        try:
            status = os.lstat(directory)
        except FileNotFoundError:
            return None
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) != 0o700:
            raise AnsibleConnectionFailure(
                f"{directory} is not a directory of this user alone; remove it, or set PODBRIDGE_DIR to another place"
            )
        return os.path.join(directory, target_key(target) + ".sock")

    def _start_bridge(self, target):
        """Starts a bridge, or finds one that another client has just started. Secrets go through the pipe only."""
        executable, timeout = (self.get_option(f"podbridge_{name}") for name in ("executable", "connect_timeout"))
        idle = self.get_option("podbridge_idle")
        command = [executable, "bridge", "--connect-timeout", str(timeout), "--idle", str(idle)]
        env = {**os.environ, **target.get("env", {})}
        limit = timeout + LOCAL_TIMEOUT
        try:
            started = subprocess.run(
                command, input=json.dumps(target).encode(), capture_output=True, env=env, timeout=limit, check=False
            )
            answer = json.loads(started.stdout or b"{}")
        except OSError as error:
            raise AnsibleError(
                f"cannot run {executable}: {error.strerror}; install podbridge or set ansible_podbridge_executable"
            ) from error
        except (subprocess.TimeoutExpired, ValueError) as error:
            raise AnsibleConnectionFailure(f"{executable} could not start a bridge: {error}") from error
        if "socket" in answer:
            return answer["socket"]
        message = answer.get("error", {}).get("message") or to_text(started.stderr).strip() or "it gave no reason"
        raise AnsibleConnectionFailure(f"no bridge for pod {self.pod}: {message}")

    def _dial(self, timeout):
        """A socket to the bridge of this target, which is started if there is none."""
        target = self._target()
        path = slot(target)
        if path:
            return self._dial_slot(path, timeout)
        path = self._bridge_socket(target)
        try:
            if path:
                return connect(path, timeout)
        except Lost as reason:
            display.vvv(f"PODBRIDGE {reason}", host=self.pod)
        return connect(self._start_bridge(target), timeout)

    def _dial_slot(self, path, timeout):
        """A socket to the bridge that Zuul keeps, and starts again when it died: it gets no rival."""
        deadline = time.monotonic() + self.get_option("podbridge_connect_timeout")
        while True:
            try:
                return connect(path, timeout)
            except Lost:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.1)

    @contextlib.contextmanager
    def _exchange(self, request, descriptors=()):
        """An operation on this container; a lost bridge is a lost host."""
        if self._option("container"):
            request["container"] = self._option("container")
        state = "nothing was run"
        try:
            with contextlib.closing(Exchange(self._dial, request, descriptors)) as exchange:
                try:
                    yield exchange
                finally:
                    state = "a command was running" if exchange.started else state
        except Lost as reason:
            raise AnsibleConnectionFailure(f"pod {self.pod}: {reason}; {state}") from reason

    def _require(self, result):
        """Raises what a result other than an exit or `ok` means to Ansible; a user that cannot log in: as with ssh."""
        outcome, message = result["outcome"], result.get("message") or f"the command was {result['outcome']}"
        if outcome == "oom_killed" and self.get_option("podbridge_oom") == "failed":
            raise AnsibleError(message)
        if outcome in ("unreachable", "lost", "cancelled", "timed_out", "oom_killed") or result.get("step") == "user":
            raise AnsibleConnectionFailure(message)
        if outcome not in ("ok", "exited", "signaled", "start_failed"):
            raise AnsibleError(message)

    def _connect(self):
        # Every operation is a connection of its own to the bridge, which keeps the one to the pod.
        self._connected = True
        return self

    def exec_command(self, cmd, in_data=None, sudoable=True):
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        display.vvv(f"EXEC {to_text(cmd)}", host=self.pod)
        request = {
            "op": "exec",
            "exec_id": uuid.uuid4().hex,
            "argv": [octets(self._play_context.executable or "/bin/sh"), "-c", octets(cmd)],
        }
        user = self.get_option("remote_user")
        if user:
            request["user"] = str(user)
        if self.become and self.become.expect_prompt() and sudoable:
            return self._exec_with_prompt(request, in_data)
        with open(os.memfd_create("stdin", os.MFD_CLOEXEC), "wb") as memory:
            if in_data:
                memory.write(to_bytes(in_data))
                memory.flush()
                request["stdin"] = "fd"
            with self._exchange(request, [memory.fileno()] if in_data else ()) as exchange:
                return self._finish(exchange)

    def _finish(self, exchange, output=b""):
        """Collects exit code, stdout and stderr."""
        stdout, stderr = [output], []
        exchange.settimeout(None)
        while True:
            kind, payload = exchange.receive()
            if kind == Exchange.STDOUT:
                stdout.append(payload)
            elif kind == Exchange.STDERR:
                stderr.append(payload)
            elif kind == Exchange.RESULT:
                return self._exited(payload, b"".join(stdout), b"".join(stderr))

    def _exited(self, result, stdout, stderr):
        self._require(result)
        outcome = result["outcome"]
        if outcome == "start_failed":
            if result.get("step") not in ("exec", "interpreter"):
                raise AnsibleError(result["message"])
            return result["code"], stdout, to_bytes(result["message"])
        return (128 + result["signal"] if outcome == "signaled" else result["code"]), stdout, stderr

    def _exec_with_prompt(self, request, in_data):
        """Answers the prompt of sudo, su and the like; stdin follows only when the user has been changed."""
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
                        # It ended without changing the user, and says why.
                        return self._exited(payload, b"", seen)
            except TimeoutError as error:
                raise AnsibleError(f"timeout waiting for the {self.become.name} prompt: {to_text(seen)}") from error
            rest = seen.split(to_bytes(self.become.success), 1)[1].lstrip(b"\r").removeprefix(b"\n")
            exchange.write(to_bytes(in_data or b""), end=True)
            return self._finish(exchange, rest)

    def _transfer(self, request, descriptor):
        user = self.get_option("remote_user")
        if user and request["op"] == "put":
            request["user"] = str(user)
        with self._exchange(request, [descriptor]) as exchange:
            result = exchange.result()
        if result["outcome"] == "failed" and result.get("kind") == "not_found" and request["op"] == "get":
            raise AnsibleFileNotFound(result["message"])
        self._require(result)

    def put_file(self, in_path, out_path):
        super().put_file(in_path, out_path)
        out_path = login_path(out_path)
        display.vvv(f"PUT {in_path} TO {out_path}", host=self.pod)
        try:
            source = open(to_bytes(in_path, errors="surrogate_or_strict"), "rb")
        except OSError as error:
            kind = AnsibleFileNotFound if error.errno == errno.ENOENT else AnsibleError
            raise kind(f"cannot read the local file {in_path}: {error.strerror}") from error
        with source:
            self._transfer({"op": "put", "path": octets(out_path)}, source.fileno())

    def fetch_file(self, in_path, out_path):
        super().fetch_file(in_path, out_path)
        in_path = login_path(in_path)
        display.vvv(f"FETCH {in_path} TO {out_path}", host=self.pod)
        destination = to_bytes(out_path, errors="surrogate_or_strict")
        temporary = os.path.join(os.path.dirname(destination), b".podbridge-" + uuid.uuid4().hex.encode())
        try:
            # Read and write: the bridge may compare what it wrote.
            with open(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), "rb") as sink:
                self._transfer({"op": "get", "path": octets(in_path)}, sink.fileno())
            os.replace(temporary, destination)
        except OSError as error:
            raise AnsibleError(f"cannot write {out_path}: {error.strerror}") from error
        finally:
            if os.path.lexists(temporary):
                os.unlink(temporary)

    def close(self):
        self._connected = False

    def reset(self):
        """Lets the bridge dial again. An error here would end the play for every host, so there is none."""
        try:
            target = self._target()
            path = slot(target) or self._bridge_socket(target)
            if path:
                dial = functools.partial(connect, path)
                with contextlib.closing(Exchange(dial, {"op": "relink"}, timeout=LOCAL_TIMEOUT)) as exchange:
                    exchange.DYING = 0
                    display.vvv(f"RESET {exchange.result()['outcome']}", host=self.pod)
        except Exception as reason:
            display.vvv(f"RESET without a bridge: {reason}", host=self.pod)
