"""Meter of a playbook's processor time on the executor: of ansible-playbook and of all processes that it waited for.

Zuul's own count ("Ansible cpu times") measures the outer process of the sandbox. That process waits for no other, so
the count is always 0.
"""

import os
import threading
import time
from contextlib import suppress

TICKS = os.sysconf("SC_CLK_TCK")
SAMPLE_INTERVAL = 0.1  # seconds


class Meter:
    """Context manager around one playbook. `cpu` and `wall` are its processor and wall clock time in seconds.

    `root()` returns the outer process of the sandbox, or None before it has started.
    """

    def __init__(self, root):
        self.root = root
        self.cpu = self.wall = 0.0
        self.finished = threading.Event()
        self.thread = threading.Thread(target=self.watch, name="meter", daemon=True)

    def __enter__(self):
        self.started = time.monotonic()
        self.thread.start()
        return self

    def __exit__(self, *_error):
        self.wall = time.monotonic() - self.started
        self.finished.set()
        self.thread.join()

    def watch(self):
        """Samples the kernel's count until the playbook ends; misses at most the last SAMPLE_INTERVAL."""
        while not self.finished.wait(SAMPLE_INTERVAL):
            with suppress(OSError, AttributeError):
                pid = sandboxed_pid(self.root().pid)
                if pid:
                    self.cpu = max(self.cpu, cpu_seconds(pid, waited=True))


def sandboxed_pid(pid):
    """Returns the pid of the first program inside the sandbox of `pid`; None before that program has started."""
    while True:
        with open(f"/proc/{pid}/comm") as file:
            if file.read().strip() != "bwrap":
                return pid
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            children = file.read().split()
        if not children:
            return None
        pid = children[0]


def cpu_seconds(pid, waited=False):
    """Returns the processor time of a process in seconds; `waited` adds the children that it waited for."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return sum(int(field) for field in fields[11 : 15 if waited else 13]) / TICKS
