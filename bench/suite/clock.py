"""The time of the run: when to leave out what only makes figures better."""

import time

from suite.rows import STARTED, say
from suite.settings import ENOUGH


def is_late():
    """Returns whether the run has taken so long that only what is missing should run."""
    return time.monotonic() - STARTED > ENOUGH


def rounds(total):
    """Yields the numbers of the rounds; only the first one if it is late."""
    for number in range(total):
        if number and is_late():
            say(f"no time for {total - number} more rounds")
            return
        yield number
