"""Clients that run `true` in the pod over an open connection: a minimal client of a bridge, and a shell over ssh."""

import hashlib
import json
import os
import socket
import struct
import subprocess
import uuid

from files.testbed import NAMESPACE, POD, SSH, WORK, podbridge, run


class Bridge:
    """Minimal client of a bridge: one connection per exec, as in the Ansible plugin."""

    def __init__(self):
        run(podbridge("exec", POD, "--", "true"))
        # The key of the target: docs/client-protocol.md.
        target = {"kubeconfig": os.environ["BENCH_KUBECONFIG"], "namespace": NAMESPACE, "pod": POD}
        key = hashlib.sha256(json.dumps(target, separators=(",", ":")).encode()).hexdigest()[:16]
        self.socket = WORK / "bridges" / f"{key}.sock"

    def true(self):
        request = {"v": 1, "op": "exec", "argv": ["true"], "exec_id": uuid.uuid4().hex}
        payload = json.dumps(request).encode()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self.socket))
            connection.sendall(struct.pack(">IB", len(payload) + 1, 1) + payload)
            stream = connection.makefile("rb")
            while True:
                length, kind = struct.unpack(">IB", stream.read(5))
                data = stream.read(length - 1)
                if kind == 0x1F:
                    result = json.loads(data)
                    if result != {"outcome": "exited", "code": 0}:
                        raise SystemExit(f"true: {result}")
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
            raise SystemExit(f"true over ssh: {exit_code!r}")

    def close(self):
        self.shell.stdin.close()
        self.shell.wait()
