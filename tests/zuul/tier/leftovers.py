"""Check that a build leaves nothing on the executor: no process, no file in its home, no warning."""

import contextlib
import os
import re
import signal
import sys

from tier import settings
from tier.kube import wait_for


def processes():
    """Returns (pid, command line) of each process of this run, except this one and the helpers of multiprocessing."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            with open(f"/proc/{entry}/environ", "rb") as file:
                environ = file.read().split(b"\0")
            with open(f"/proc/{entry}/cmdline", "rb") as file:
                command = file.read().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        if settings.MARK.encode() in environ and command and not re.search(r"multiprocessing", command):
            found.append((int(entry), command))
    return found


def kill_all():
    """Kills the processes that a failed scenario left, and prints their command lines."""
    for pid, command in processes():
        print(f"zuul {settings.PEER}: ending process {pid}: {command[:200]}", file=sys.stderr)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def home_files():
    return [os.path.join(at, name) for at, _directories, names in os.walk(settings.HOME) for name in names]


def expect_none(seconds=3.0):
    """Asserts that within `seconds` no process of this run is left, and no file in the executor's home."""
    try:
        wait_for("the end of a build's processes", lambda: not processes(), seconds)
    except AssertionError as error:
        raise AssertionError(f"processes are left: {processes()}") from error
    # The stock kubectl keeps its cache in the home.
    assert not settings.is_podbridge() or not home_files(), f"files in the executor's home: {home_files()}"


def expect_no_warnings(build):
    """Asserts that Zuul has no warning: it reports each file that a playbook leaves in the home of the build."""
    build.cleanHomeDir(build.jobdir.freeze_playbook)
    assert not build.warnings, f"build warnings: {build.warnings}"
