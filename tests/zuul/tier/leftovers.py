"""This file owns what may be left on the executor after a build: nothing."""

import contextlib
import os
import re
import signal
import sys

from tier import settings
from tier.kube import wait_for


def processes():
    """Processes of this run, (pid, command line), but for this one and what multiprocessing keeps for it."""
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


def end_all():
    """What a scenario left that failed, by pid."""
    for pid, command in processes():
        print(f"zuul {settings.PEER}: ending process {pid}: {command[:200]}", file=sys.stderr)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def home_files():
    return [os.path.join(at, name) for at, _directories, names in os.walk(settings.HOME) for name in names]


def expect_none(seconds=3.0):
    try:
        wait_for("the end of a build's processes", lambda: not processes(), seconds)
    except AssertionError as error:
        raise AssertionError(f"processes are left: {processes()}") from error
    # The stock kubectl caches there.
    assert not settings.podbridge() or not home_files(), f"files in the executor's home: {home_files()}"


def expect_no_warnings(build):
    """Zuul reports each file that a playbook leaves in the build's home."""
    build.cleanHomeDir(build.jobdir.freeze_playbook)
    assert not build.warnings, f"build warnings: {build.warnings}"
