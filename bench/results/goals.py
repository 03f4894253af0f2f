"""The goals: ratios between rows of one run, each with what it is and whether it is met."""

from dataclasses import dataclass

from suite.workloads import LABELS, NO_PEERS, UNITS

from results.rows import best, number, peer_name

LINKS = ("direct", "exec-proxy")


@dataclass(frozen=True)
class Goal:
    """A goal of a workload and a link. `value` is None if a row that it needs has no figure."""

    work: str
    link: str
    what: str
    value: float | None
    limit: float
    at_least: bool = False

    @property
    def is_met(self):
        return self.value is not None and (self.value >= self.limit if self.at_least else self.value <= self.limit)

    @property
    def verdict(self):
        if self.value is None:
            return "no figure"
        if self.is_met:
            return "met"
        if self.at_least:
            return f"missed by {(1 - self.value / self.limit) * 100:.0f} %"
        factor = self.value / self.limit
        return f"missed by {(factor - 1) * 100:.0f} %" if factor < 2 else f"missed by a factor of {factor:.1f}"

    @property
    def limit_text(self):
        return f"{'≥' if self.at_least else '≤'} {number(self.limit)}"


class Goals:
    """Computes the goals of a result."""

    def __init__(self, results):
        self.results = results

    def all(self):
        """Returns the goals whose workload was measured, with a figure or without."""
        measured = {row["workload"] for row in self.results.rows}
        return [goal for name, goals in self.table() if name in measured for goal in goals]

    def table(self):
        """Yields (workload, goals)."""
        for name in ("command-20", "command-100"):
            yield name, self.each(name, "× null", 1.7, "null")
        yield "command-20", self.each("command-20", "kubectl as Zuul sets it ÷ podbridge", 20, "kubectl-zuul", True)
        yield "command-20", self.each("command-20", "pipelined kubectl ÷ podbridge", 7, "kubectl-pipelined", True)
        for name in ("command-20", "command-100", "newest-command-20", "newest-command-100"):
            yield name, self.each(name, "× mitogen over ssh", 1, "mitogen-ssh")
        yield "loop", self.each("loop", "× null", 3, "null")
        yield "raw", self.each("raw", "× null", 1.3, "null")
        for name in ("copy", "template"):
            yield name, self.each(name, "× null", 2, "null")
            yield name, self.each(name, "× mitogen over ssh", 1, "mitogen-ssh")
        yield "setup", self.ahead("setup", 0.8)
        for name in ("copy-large", "fetch-large"):
            yield name, [self.large(name, link) for link in LINKS]
            yield name, self.ahead(name, 1)
        yield "exec-true", self.each("exec-true", "`kubectl exec` ÷ podbridge", 30, "kubectl-exec", True)
        yield "rate-out", [self.of_tls("rate-out", 0.85)]
        yield "rate-in", [self.of_tls("rate-in", 0.85)]
        yield "pods-20", self.each("pods-20", "× null", 3, "null")
        yield "pods-20", self.each("pods-20", "kubectl as Zuul sets it ÷ podbridge", 15, "kubectl-zuul", True)
        yield "pods-20-cpu", self.each("pods-20-cpu", "kubectl as Zuul sets it ÷ podbridge", 30, "kubectl-zuul", True)
        yield "zuul-100-start", self.each("zuul-100-start", "× kubectl", 1, "kubectl-zuul", links=("auto",))
        for name, limit in (("zuul-line-p99", 10), ("zuul-skipped", 300), ("zuul-creates", 300), ("push-50-true", 20)):
            yield name, self.absolute(name, limit)
        for name, limit in (("memory-bridge", 2), ("memory-agent", 1), ("memory-warm", 20)):
            yield name, self.absolute(name, limit)

    def each(self, name, what, limit, peer, at_least=False, links=LINKS):
        """Returns a goal for each link: podbridge as a multiple of the peer, or the peer as a multiple of podbridge."""
        return [
            Goal(LABELS[name], link, what, self.ratio(name, link, peer, at_least), limit, at_least) for link in links
        ]

    def ratio(self, name, link, peer, inverse):
        ours, other = self.results.row(name, "podbridge", link), self.results.row(name, peer)
        if ours is None or other is None:
            return None
        ratio = ours["median"] / other["median"]
        return 1 / ratio if inverse else ratio

    def ahead(self, name, limit):
        """Returns a goal for each link: podbridge as a multiple of the best of all peers."""
        others = [row for row in self.results.of(name) if row["n"] and row["peer"] not in ("podbridge", *NO_PEERS)]
        other = best(others)
        what = f"× {peer_name(other)}" if other else "× the best peer"
        return self.each(name, what, limit, other["peer"] if other else "none")

    def large(self, name, link):
        """Returns the goal of a large file: null, and 1.3 of the time of a stream over the same link."""
        ours, null = self.results.row(name, "podbridge", link), self.results.row(name, "null")
        stream = self.results.row(name, "tls" if link == "direct" else "kubectl-exec")
        what = "× (null + 1.3 of a stream over the link)"
        value = None
        if ours and null and stream:
            value = ours["median"] / (null["median"] + 1.3 * stream["median"])
        return Goal(LABELS[name], link, what, value, 1)

    def of_tls(self, name, limit):
        ratio = self.ratio(name, "direct", "tls", False)
        return Goal(LABELS[name], "direct", "of a TLS stream", ratio, limit, True)

    def absolute(self, name, limit):
        rows = [row for row in self.results.of(name) if row["peer"] == "podbridge"]
        return [Goal(LABELS[name], row["link"], UNITS[name], row["median"], limit) for row in rows]
