"""Connection that runs nothing: what a task takes with it is what Ansible itself takes.

Modules are answered from the file BENCH_NULL, a JSON object {name of the module: its result}; every other module has
changed something. Shell commands succeed. A fetched file becomes a link to the file that the entry `fetch` names.
"""

import json
import os
import re

from ansible.plugins.connection import ConnectionBase

DOCUMENTATION = """
name: null
short_description: runs nothing
description: Answers from a file; a floor for benchmarks.
extends_documentation_fragment: connection_pipelining
options: {}
"""

MODULE = re.compile(rb"(?:mod_name|module_fqn)=['\"]ansible\.(?:modules|legacy)\.(\w+)")
DIRECTORY = re.compile(r"ansible-tmp-[\d.]+-\d+-\d+")


class Connection(ConnectionBase):
    transport = "null"
    has_pipelining = True

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        with open(os.environ["BENCH_NULL"]) as file:
            self.answers = json.load(file)

    def _connect(self):
        self._connected = True
        return self

    def exec_command(self, cmd, in_data=None, sudoable=True):
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        if in_data:
            name = MODULE.search(in_data)[1].decode()
            return 0, json.dumps(self.answers.get(name, {"changed": True})).encode(), b""
        directory = DIRECTORY.search(cmd)
        if directory and "mkdir" in cmd:
            return 0, f"{directory[0]}=/root/.ansible/tmp/{directory[0]}\n".encode(), b""
        return 0, b"/root\n" if "echo ~" in cmd else b"", b""

    def put_file(self, in_path, out_path):
        super().put_file(in_path, out_path)

    def fetch_file(self, in_path, out_path):
        super().fetch_file(in_path, out_path)
        if os.path.exists(out_path):
            os.unlink(out_path)
        os.link(self.answers["fetch"], out_path)

    def close(self):
        self._connected = False
