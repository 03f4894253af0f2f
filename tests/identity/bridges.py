"""Finds and ends the bridges of one test by the directory of their sockets."""

import contextlib
import os
import signal
import time
from pathlib import Path


def find_bridges(directory):
    """Returns the pids of the bridges of a directory, also of those that no socket leads to any more."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and f"PODBRIDGE_DIR={directory}\0".encode() in (process / "environ").read_bytes():
                if b"bridge\0--detached" in (process / "cmdline").read_bytes():
                    found.append(int(process.name))
        except OSError:
            continue
    return found


def stop_bridges(directory):
    """Ends the bridges of a directory and waits until they have removed their sockets; returns how many there were."""
    found = find_bridges(directory)
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 30
    while find_bridges(directory):
        if time.monotonic() > deadline:
            raise TimeoutError("bridges did not end within 30 s of SIGTERM")
        # Another look at the processes.
        time.sleep(0.05)
    return len(found)
