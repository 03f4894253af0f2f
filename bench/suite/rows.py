"""Rows of the result: samples are collected here, and every row is the median, the lowest and the highest of them."""

import json
import os
import re
import statistics
import sys
import time
from collections import defaultdict

from suite.workloads import AREA_OF, UNITS

STARTED = time.monotonic()
PATH = re.compile(r"/(?:tmp|work|root|home|var)/(?:[^\s'\":/]+/)*([^\s'\":/]+)")


def say(text):
    """Prints a line of progress."""
    print(f"bench {time.monotonic() - STARTED:5.0f} s: {text}", file=sys.stderr, flush=True)


class Failed(Exception):
    """A peer did not do its work. The message says why."""


class Rows:
    """Samples and failures, by (workload, peer, link)."""

    def __init__(self):
        self.samples = defaultdict(list)
        self.why = {}

    def add(self, workload, peer, link, *samples):
        assert workload in UNITS, workload
        self.samples[workload, peer, link] += samples

    def failed(self, workload, peer, link, error):
        """Notes why a sample is missing. The row has a figure anyway if other rounds gave samples."""
        assert workload in UNITS, workload
        # The rows are published: no directory of this machine is in them.
        text = PATH.sub(r"…/\1", " ".join(str(error).split()))
        self.why.setdefault((workload, peer, link), text if len(text) <= 300 else f"{text[:150]} … {text[-150:]}")
        say(f"{workload}: {peer} ({link}) failed: {text[:600]}")

    def measure(self, workloads, peer, link, action):
        """Runs `action()`, which returns a sample for each of `workloads`, and adds them. A failure becomes a note."""
        try:
            samples = action()
        except (Failed, OSError, ValueError, KeyError, AssertionError) as error:
            for workload in workloads:
                self.failed(workload, peer, link, error)
            return
        for workload, sample in zip(workloads, samples, strict=True):
            self.add(workload, peer, link, sample)

    def rows(self):
        """Returns the rows of the result, in the order of the workloads."""
        keys = list(dict.fromkeys([*self.samples, *self.why]))
        order = list(AREA_OF)
        return [self.row(*key) for key in sorted(keys, key=lambda key: order.index(key[0]))]

    def row(self, workload, peer, link):
        samples = sorted(self.samples.get((workload, peer, link), ()))
        row = {"workload": workload, "peer": peer, "link": link, "unit": UNITS[workload]}
        if not samples:
            return row | {"median": None, "low": None, "high": None, "n": 0, "why": self.why[workload, peer, link]}
        return row | {
            "median": rounded(statistics.median(samples)),
            "low": rounded(samples[0]),
            "high": rounded(samples[-1]),
            "n": len(samples),
        }


def rounded(number):
    """Returns the number with four significant digits."""
    return float(f"{number:.4g}")


def read(path):
    """Returns the document at `path`; an empty one if there is none."""
    try:
        with open(path) as file:
            return json.load(file)
    except FileNotFoundError:
        return {"runs": [], "rows": []}


def merge(path, before, run, rows):
    """Writes the rows to `path`, with those of `before` whose workloads this run did not measure, and their runs."""
    measured = {row["workload"] for row in rows}
    kept = [row for row in before["rows"] if row["workload"] not in measured and row["workload"] in UNITS]
    runs = [entry for entry in before["runs"] if any(row["run"] == entry["run"] for row in kept)]
    number = max([0, *(entry["run"] for entry in before["runs"])]) + 1
    order = list(AREA_OF)
    merged = sorted(kept + [{**row, "run": number} for row in rows], key=lambda row: order.index(row["workload"]))
    text = {"runs": [*runs, {"run": number, **run}], "rows": merged}
    new = f"{path}.new"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(new, "w") as file:
        file.write(to_text(text))
    os.replace(new, path)


def to_text(document):
    """Returns the document as JSON with one line for each run and each row, so that a difference can be read."""
    parts = [
        f'"{part}": [\n' + ",\n".join(f"  {json.dumps(entry, ensure_ascii=False)}" for entry in document[part]) + "\n]"
        for part in ("runs", "rows")
    ]
    return "{\n" + ",\n".join(parts) + "\n}\n"
