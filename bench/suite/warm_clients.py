"""Clients that run `true` in the pod over an open connection: a minimal client of a bridge, and a shell over ssh."""

import json
import socket
import struct
import subprocess
import uuid

from suite.rows import Failed
from suite.settings import BIN, KUBECONFIG, NAMESPACE
from suite.testbed import POD, SSH, run


class Bridge:
    """Minimal client of a bridge: one connection per exec, as in the Ansible plugin."""

    def __init__(self, link):
        target = {"kubeconfig_file": KUBECONFIG, "namespace": NAMESPACE, "pod": POD, "link": link}
        # The command starts the bridge or finds it: docs/client-protocol.md.
        answer = json.loads(run([BIN / "podbridge", "bridge"], input=json.dumps(target).encode()))
        if "socket" not in answer:
            raise Failed(answer["error"]["message"])
        self.socket = answer["socket"]

    def true(self):
        request = {"v": 1, "op": "exec", "argv": ["true"], "exec_id": uuid.uuid4().hex}
        payload = json.dumps(request).encode()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(self.socket)
            connection.sendall(struct.pack(">IB", len(payload) + 1, 1) + payload)
            stream = connection.makefile("rb")
            while True:
                length, kind = struct.unpack(">IB", stream.read(5))
                data = stream.read(length - 1)
                if kind == 0x1F:
                    result = json.loads(data)
                    if result != {"outcome": "exited", "code": 0}:
                        raise Failed(f"true: {result}")
                    return

    def close(self):
        pass


class Ssh:
    """Shell over one ssh connection; it starts only the command itself for each `true`."""

    def __init__(self, address):
        self.shell = subprocess.Popen(
            [*SSH, f"root@{address}", "sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )

    def true(self):
        self.shell.stdin.write(b"/bin/true; echo $?\n")
        exit_code = self.shell.stdout.readline()
        if exit_code != b"0\n":
            raise Failed(f"true over ssh: {exit_code!r}")

    def close(self):
        self.shell.stdin.close()
        self.shell.wait()
