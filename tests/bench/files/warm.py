"""This file owns a client of the bridge as small as the Ansible plugin's: one connection, one exec of `true`."""

import json
import socket
import struct
import uuid

from files.place import POD, WORK, podbridge, run


class ExecClient:
    def __init__(self):
        run(podbridge("exec", POD, "--", "true"))
        (self.socket,) = (WORK / "bridges").glob("*.sock")

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
