"""Workloads of single kinds of tasks, with all peers on one pod, in interleaved rounds."""

import hashlib
import itertools
import json
import os
from dataclasses import dataclass, replace

from suite import clock, peers, playbooks, raw_tls, settings, testbed
from suite.rows import Failed, say
from suite.settings import ROOT, WORK, count
from suite.workloads import AREA_OF, UNITS

SERVICE = ROOT / "bench/plays/service.yml"

LARGE = 100_000_000
TEMPLATE = """# {{ marker }}
{% for name in ['alpha', 'beta', 'gamma'] %}
server {{ name }}.example.org:{{ 8000 + loop.index }}
{% endfor %}
"""
TRUE = {"command": "true"}
APT = {"apt": {"name": "git", "state": "present"}}
STAMPS = {"start": "2026-01-01 00:00:00.000000", "end": "2026-01-01 00:00:00.001000", "delta": "0:00:00.001000"}
COMMAND = {"changed": True, "cmd": ["true"], "rc": 0, "stdout": "", "stderr": "", "msg": "", **STAMPS}


def make_file(path, size):
    """Makes a file of random bytes."""
    with open(path, "wb") as file:
        for _ in range(100):
            file.write(os.urandom(size // 100))


class Plays:
    """The plays of the workloads. Names of files in the pod are new in each run, so that each copy has work to do."""

    def __init__(self):
        self.source, self.template_file, self.large = (WORK / name for name in ("small", "template.j2", "large"))
        self.source.write_text(os.urandom(512).hex())
        self.template_file.write_text(TEMPLATE)
        self.numbers = itertools.count()
        self.few = False

    def make_large(self):
        if not self.large.exists():
            make_file(self.large, LARGE)

    def count(self, full):
        """Returns how often a task is repeated: half as often in a quick run, and again for a peer that is slow."""
        return max(1, full // count(1, 4 if self.few else 2))

    def new(self):
        return f"/disk/bench-{next(self.numbers)}"

    def make(self, workload, few=False):
        """Returns a play, and the number of items that its time is divided by; with `few` they are half as many."""
        self.few = few
        tasks, number = getattr(self, workload.replace("-", "_").removeprefix("newest_"))()
        return playbooks.play(workload, tasks), number

    def command_20(self):
        return [TRUE] * 20, 20

    def command_100(self):
        return [TRUE] * 100, 100

    def loop(self):
        number = self.count(20)
        return [{**TRUE, "loop": list(range(number))}], number

    def raw(self):
        number = self.count(20)
        return [{"raw": "true"}] * number, number

    def copy(self):
        number = self.count(10)
        return [{"copy": {"src": str(self.source), "dest": self.new()}} for _ in range(number)], number

    def template(self):
        number = self.count(10)
        src, variables = str(self.template_file), {"marker": "bench"}
        return [{"template": {"src": src, "dest": self.new()}, "vars": variables} for _ in range(number)], number

    def setup(self):
        number = self.count(3)
        return [{"setup": None}] * number, number

    def apt(self):
        number = self.count(3)
        return [APT] * number, number

    def package_facts(self):
        number = self.count(3)
        return [{"package_facts": None}] * number, number

    def play(self):
        template = str(self.template_file)
        tasks = [
            {"import_tasks": str(SERVICE), "vars": {"directory": self.new(), "template": template}} for _ in range(10)
        ]
        # The play as a whole is one item.
        return tasks, 1

    def copy_large(self):
        self.make_large()
        return [{"copy": {"src": str(self.large), "dest": "/memory/copied"}}], 1

    def fetch_large(self):
        # A directory of its own, because the stock plugin writes a file of the source's name beside the target.
        back = WORK / "fetched" / "file"
        back.parent.mkdir(exist_ok=True)
        back.unlink(missing_ok=True)
        return [{"fetch": {"src": "/memory/large", "dest": str(back), "flat": True}}], 1


AREAS = ("command", "newest", "loop", "raw", "copy", "template", "setup", "package", "play", "large")


@dataclass(frozen=True)
class Group:
    """Workloads that run in one process of ansible-playbook. With `start`, a first play opens the connection.

    `full` and `quick` are the rounds of fast peers, of slow ones, and of kubectl as Zuul sets it.
    """

    workloads: tuple
    start: bool
    full: tuple
    quick: tuple

    def rounds(self, peer):
        """Returns the number of rounds of a peer."""
        fast, slow, slowest = self.quick if settings.QUICK else self.full
        return {"kubectl-zuul": slowest}.get(peer.name, slow if peer.slow else fast)


KINDS = ("loop", "raw", "copy", "template", "setup", "apt", "package-facts")
GROUPS = [
    Group(("command-20",), False, (4, 3, 2), (2, 1, 1)),
    # Kubectl and ssh take the same time for each of 100 tasks as for each of 20.
    Group(("command-100",), False, (3, 1, 0), (2, 0, 0)),
    Group(("newest-command-20",), False, (3, 2, 1), (1, 0, 0)),
    Group(("newest-command-100",), False, (2, 0, 0), (1, 0, 0)),
    Group(KINDS, True, (3, 2, 1), (1, 1, 1)),
    Group(("play",), False, (3, 1, 1), (1, 0, 0)),
    Group(("copy-large", "fetch-large"), True, (3, 2, 1), (1, 1, 1)),
]


def measure(rows, areas, pods):
    """Measures the workloads of these areas on the one pod."""
    groups = [replace(group, workloads=chosen) for group in GROUPS if (chosen := chosen_of(group, areas))]
    if not groups:
        return
    plays = Plays()
    warm(pods)
    if not peers.NULL_ANSWERS.exists():
        answers(pods)
    for group in groups:
        rounds = max(group.rounds(peer) for peer in peers.PEERS)
        for number in clock.rounds(rounds):
            say(f"round {number + 1} of {rounds}: {' '.join(group.workloads)}")
            for peer in rotated(peers.PEERS, number):
                is_left_out = peer.slow and clock.is_late() and (number or settings.QUICK)
                if number < group.rounds(peer) and not is_left_out:
                    run_group(rows, plays, peer, group, pods)
            if "copy-large" in group.workloads:
                streams(rows, plays, *pods.values())


def chosen_of(group, areas):
    """Returns the workloads of a group that belong to these areas."""
    return tuple(name for name in group.workloads if AREA_OF[name] in areas)


def rotated(items, number):
    """Returns the items with another one first in each round, so that a slow phase affects all of them."""
    number %= len(items)
    return [*items[number:], *items[:number]]


def run_group(rows, plays, peer, group, pods):
    """Runs the plays of a group once."""
    names = group.workloads
    core = settings.NEWEST if names[0].startswith("newest") else settings.CORE
    made = {name: plays.make(name, few=peer.name.startswith("kubectl")) for name in names}
    first = [playbooks.play("start", [{"raw": "true"}, TRUE, *large_files(peer, names)])] if group.start else []

    def samples():
        seconds = playbooks.run(core, peer, pods, [*first, *(play for play, _number in made.values())]).seconds
        return [seconds[name] / number * (1 if UNITS[name] == "s" else 1000) for name, (_play, number) in made.items()]

    rows.measure(names, peer.name, peer.link, samples)


def streams(rows, plays, address):
    """The large files as streams over the links, without Ansible."""
    there, back = "/memory/stream", WORK / "stream"
    kubectl = " ".join(map(str, testbed.KUBECTL))
    into, out = (
        f"exec -i {testbed.POD} -- sh -c 'cat >{there}' <{plays.large}",
        f"exec {testbed.POD} -- cat {there} >{back}",
    )

    def tls():
        link = raw_tls.RawTls(address)
        try:
            return milliseconds(lambda: link.up(plays.large, there)), milliseconds(lambda: link.down(there, back))
        finally:
            link.close()

    def cat():
        return [milliseconds(lambda line=line: testbed.shell(f"{kubectl} {line}")) for line in (into, out)]

    for peer, link, action in (("tls", "tcp", tls), ("kubectl-exec", "api", cat)):
        rows.measure(["copy-large", "fetch-large"], peer, link, action)
        testbed.exec_in_pod(f"rm -f {there}")
        back.unlink(missing_ok=True)


def milliseconds(action):
    return testbed.measure_action(action)[0] * 1000


def large_files(peer, names):
    """Returns the task that prepares the pod for the large files, if they are among these workloads."""
    line = "rm -f /memory/copied; [ -e /memory/large ] || dd if=/dev/urandom of=/memory/large bs=1000000 count=100"
    return [{"raw": line}] if "copy-large" in names and peer.name != "null" else []


def warm(pods):
    """Opens the connections that peers keep between playbooks: bridges with their agent, and ssh."""
    for peer in peers.PEERS:
        if peer.name in ("podbridge", "ssh"):
            try:
                # The second play has a warm interpreter.
                for _ in range(2):
                    playbooks.run(settings.CORE, peer, pods, [playbooks.play("warm", [TRUE] * 3)])
            except Failed as error:
                say(f"{peer.name} ({peer.link}) cannot be warmed: {error}")


def answers(pods):
    """Writes the answers of the null transport: results as modules of the pod have given them."""
    there = WORK / "large-there"
    make_file(there, LARGE)
    with open(there, "rb") as file:
        digest = hashlib.file_digest(file, "sha1").hexdigest()
    there_is = {"exists": True, "isreg": True, "isdir": False, "checksum": digest, "size": LARGE}
    known = {
        "command": COMMAND,
        "copy": {"changed": True, "dest": "/disk/x", "state": "file"},
        "stat": {"changed": False, "stat": there_is},
        "file": {"changed": True, "path": "/disk/x", "state": "directory"},
        "lineinfile": {"changed": True, "msg": "line added", "backup": ""},
        "fetch": str(there),
        **recorded(pods),
    }
    peers.NULL_ANSWERS.write_text(json.dumps(known))


def recorded(pods):
    """Returns {module: its result in the pod} for modules whose results are large."""
    modules = ("setup", "package_facts", "apt")
    peer = next(peer for peer in peers.PEERS if peer.name == "podbridge" and peer.link == "exec-proxy")
    plays = [playbooks.play("record", [{"setup": None}, {"package_facts": None}, APT])]
    results = playbooks.run(settings.CORE, peer, pods, plays, keep=True).results
    return dict(zip(modules, results, strict=True))
