"""The rows of a result, as they are in docs/bench/latest.json: read, looked up, and written as texts."""

import json
from dataclasses import dataclass, field

from suite.workloads import PEERS, RATES


@dataclass
class Results:
    """Runs and rows. `row` finds a row that has a figure."""

    runs: list = field(default_factory=list)
    rows: list = field(default_factory=list)

    @classmethod
    def read(cls, path):
        if not path.exists():
            return cls()
        document = json.loads(path.read_text())
        return cls(document["runs"], document["rows"])

    def of(self, workload):
        """Returns the rows of a workload: podbridge first, then the peers in their usual order."""
        order = ["podbridge", *(peer for peer in PEERS if peer != "podbridge")]
        rows = [row for row in self.rows if row["workload"] == workload]
        return sorted(rows, key=lambda row: order.index(row["peer"]))

    def row(self, workload, peer, link=None):
        """Returns the row with a figure, or None. Without a link it is the best one."""
        rows = [row for row in self.of(workload) if row["peer"] == peer and row["n"] and link in (None, row["link"])]
        return best(rows)


def best(rows):
    """Returns the best of rows of one workload; None if there is none."""
    sign = -1 if rows and rows[0]["workload"] in RATES else 1
    return min(rows, key=lambda row: sign * row["median"], default=None)


def number(value):
    """Returns a number with three significant digits, without an exponent."""
    if value == 0:
        return "0"
    digits = f"{value:#.3g}"
    if "e" in digits:
        digits = f"{float(digits):,.0f}"
    return digits.rstrip(".")


def peer_name(row):
    """Returns the name of a peer with its link, where it can have several."""
    link = {"direct": ", direct link", "exec-proxy": ", through the API server"}.get(row["link"], "")
    return PEERS[row["peer"]] + (link if row["peer"] == "podbridge" else "")
