"""Writes when each play of a playbook began and ended, and what failed, as JSON to the file BENCH_TIMES; with
BENCH_KEEP also the results of the tasks. It prints nothing, so that no peer waits for a terminal.
"""

import json
import os
import time

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: bench_times
type: stdout
short_description: times of plays
description: Writes the times of plays to the file that the environment variable BENCH_TIMES names.
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "bench_times"

    def __init__(self):
        super().__init__()
        self.plays, self.failures, self.results = [], [], []

    def v2_playbook_on_play_start(self, play):
        self.end_play()
        self.plays.append({"name": play.get_name(), "started": time.monotonic()})

    def end_play(self):
        if self.plays:
            self.plays[-1].setdefault("ended", time.monotonic())

    def v2_runner_on_ok(self, result):
        if os.environ["BENCH_KEEP"]:
            self.results.append(answer(result))

    def v2_runner_on_failed(self, result, ignore_errors=False):
        if not ignore_errors:
            self.failures.append({"play": self.plays[-1]["name"], "message": message(result)})

    def v2_runner_on_unreachable(self, result):
        self.failures.append({"play": self.plays[-1]["name"], "message": message(result)})

    def v2_playbook_on_stats(self, stats):
        self.end_play()
        with open(os.environ["BENCH_TIMES"], "w") as file:
            json.dump({"plays": self.plays, "failures": self.failures, "results": self.results}, file)


def answer(result):
    """Returns the result of a task. Newer cores have another name for it."""
    return result.result if hasattr(result, "result") else result._result


def message(result):
    return "; ".join(str(answer(result)[key]) for key in ("msg", "module_stderr", "stderr") if answer(result).get(key))
