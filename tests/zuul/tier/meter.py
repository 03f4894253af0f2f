"""This file owns what a playbook costs the executor: processor time of ansible-playbook and of all that it waited for.

Zuul's own count ("Ansible cpu times") is of the outer process of the sandbox, which waits for nothing: always 0.
"""

import os
import threading
import time
from contextlib import suppress

TICKS = os.sysconf("SC_CLK_TCK")
PAUSE = 0.1


class Meter:
    """For `with`, around a playbook; `root` answers the outer process of its sandbox, None while there is none."""

    def __init__(self, root):
        self.root = root
        self.cpu = self.wall = 0.0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.watch, name="meter", daemon=True)

    def __enter__(self):
        self.begun = time.monotonic()
        self.thread.start()
        return self

    def __exit__(self, *_error):
        self.wall = time.monotonic() - self.begun
        self.over.set()
        self.thread.join()

    def watch(self):
        """The kernel's own count, as late as there is one; what comes in the last tenth of a second is not seen."""
        while not self.over.wait(PAUSE):
            with suppress(OSError, AttributeError):
                pid = inner(self.root().pid)
                if pid:
                    self.cpu = max(self.cpu, processor(pid, waited=True))


def inner(pid):
    """The first program in the sandbox; None before it is there."""
    while True:
        with open(f"/proc/{pid}/comm") as file:
            if file.read().strip() != "bwrap":
                return pid
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            children = file.read().split()
        if not children:
            return None
        pid = children[0]


def processor(pid, waited=False):
    """Seconds, with those of the children that it waited for."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return sum(int(field) for field in fields[11 : 15 if waited else 13]) / TICKS
