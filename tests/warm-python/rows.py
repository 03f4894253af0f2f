"""Callback: writes each result as a line of JSON to the file $ROWS."""

DOCUMENTATION = """
name: rows
type: stdout
short_description: writes results as lines of JSON
description: writes results as lines of JSON
"""

import json
import os

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):
    CALLBACK_VERSION, CALLBACK_TYPE, CALLBACK_NAME = 2.0, "stdout", "rows"

    def __init__(self):
        super().__init__()
        self.numbers, self.count = {}, {}

    def _write(self, result, **more):
        if result._task.action == "pause":
            return
        host, task = result._host.get_name(), result._task._uuid
        name = result._task.get_name().rpartition(":")[2].strip()
        key = self.numbers.setdefault((host, task), (name if name.isdigit() else "900", self.count.get(host, 0)))
        self.count[host] = self.count.get(host, 0) + 1
        with open(os.environ["ROWS"], "a") as file:
            index = f"{key[1]:04}" if not name.isdigit() else "0"
            file.write(json.dumps([host, key[0], index, {**result._result, **more}], default=str) + "\n")

    def v2_runner_on_ok(self, result):
        self._write(result, status="ok")

    def v2_runner_on_failed(self, result, ignore_errors=False):
        self._write(result, status="failed")

    def v2_runner_on_unreachable(self, result):
        self._write(result, status="unreachable")

    def v2_runner_on_skipped(self, result):
        self._write(result, status="skipped")
