"""The connection plugin in a process of its own: to start Ansible for each command would take most of a test's time."""

import json
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Plugin:
    """Runs commands through the plugin. `python` is an interpreter with ansible-core."""

    def __init__(self, python, podbridge):
        command = [python, Path(__file__).with_name("plugin_worker.py"), ROOT / "ansible", podbridge]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, environment, variables, command="true", directory="/"):
        """Runs a command with the variables of an inventory, in an environment and a working directory.

        Returns `status` and `output` of the command, or `error` and `unreachable`, as a dict.
        """
        order = {"environment": environment, "variables": variables, "command": command, "directory": str(directory)}
        print(json.dumps(order), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def close(self):
        self._process.stdin.close()
        self._process.wait(30)
