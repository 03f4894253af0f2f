"""Entry point of the tier: runs the named scenarios one after another, each in its own session, and stops at the first
failure.
"""

import logging
import signal
import sys
import time

from builds import BENCHMARKS

from tier import kube, leftovers, settings
from tier.scenarios import SCENARIOS

ALL = SCENARIOS | BENCHMARKS


def main(names):
    if names == ["list"]:
        for name, scenario in ALL.items():
            print(f"{name:20} {scenario.__doc__.strip().splitlines()[0]}")
        return 0
    unknown = [name for name in names if name not in ALL]
    if unknown:
        sys.exit(f"zuul tier: unknown scenario {' '.join(unknown)}; `run list` prints the known ones")
    settings.become_executor()
    executor_log = logging.FileHandler(settings.WORK / "executor.log")
    executor_log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in ("zuul", "nodepool"):
        logging.getLogger(name).addHandler(executor_log)
        logging.getLogger(name).setLevel(logging.DEBUG)
    logging.getLogger("tier").addHandler(logging.StreamHandler(sys.stderr))
    signal.signal(signal.SIGTERM, lambda *_signal: sys.exit(143))
    try:
        for name in names:
            started = time.monotonic()
            if not run(name):
                return 1
            print(f"zuul {settings.PEER}: {name} passed in {time.monotonic() - started:.0f} s", file=sys.stderr)
    finally:
        leftovers.kill_all()
        kube.remove_all()
    return 0


def run(name):
    """Runs one scenario and returns whether it passed; a failure prints its error and the executor's log."""
    from tier.session import Session

    session, error = Session(name), None
    try:
        ALL[name](session)
    except BaseException as raised:  # the session has to be closed after every kind of error, Ctrl-C included
        error = raised
    try:
        session.close(failed=error is not None)
    except Exception as raised:
        error = error or raised
    if error is None:
        return True
    if not isinstance(error, Exception):
        raise error
    logging.getLogger("tier").error("", exc_info=error)
    log = (settings.WORK / "executor.log").read_text(errors="replace").splitlines()
    tail = [line[:400] for line in log if "Ansible output: b'  " not in line][-40:]
    print("the last lines of the executor's log:", *tail, sep="\n", file=sys.stderr)
    print(f"zuul {settings.PEER}: {name} FAILED: {error}", file=sys.stderr)
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
