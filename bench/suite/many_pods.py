"""Many pods at once: wall time of a play, and processor time of everything that runs on the executor for it."""

import os

from suite import clock, peers, playbooks, settings, testbed
from suite.rows import Failed, say
from suite.settings import count
from suite.tasks import TRUE, answers

MANY = int(os.environ.get("BENCH_PODS") or 100)
NAMES = ("null", "podbridge", "mitogen-ssh", "kubectl-pipelined", "kubectl-zuul")


def measure(rows, areas):
    if "pods" in areas:
        with testbed.pods([f"bench-{number}" for number in range(20)]) as pods:
            one = dict([next(iter(pods.items()))])
            compare(rows, one, ["pods-1"], 10, 5, NAMES)
            compare(rows, pods, ["pods-20", "pods-20-cpu"], 10, 20, NAMES)
            testbed.stop_bridges()
    if "pods100" in areas:
        with testbed.pods([f"bench-{number}" for number in range(MANY)]) as pods:
            compare(rows, pods, ["pods-100", "pods-100-cpu"], 2, 50, ("null", "podbridge", "kubectl-pipelined"))
            testbed.stop_bridges()


def compare(rows, pods, workloads, tasks, forks, names):
    """Runs `tasks` tasks on the pods with each peer; a sample is the time of one task on one pod."""
    chosen = [peer for peer in peers.PEERS if peer.name in names]
    # The bridges of an executor are there before the first task, as Zuul starts them with the build.
    for peer in chosen:
        if peer.name == "podbridge":
            try:
                for _ in range(2):
                    playbooks.run(settings.CORE, peer, pods, [playbooks.play("warm", [TRUE] * 2)], forks)
            except Failed as error:
                say(f"podbridge ({peer.link}) cannot be warmed: {error}")
    if not peers.NULL_ANSWERS.exists():
        answers(dict([next(iter(pods.items()))]))
    for number in clock.rounds(count(3, 1)):
        for peer in chosen:
            if peer.slow and (number or settings.QUICK and clock.is_late()):
                continue
            # Kubectl takes the same time for every task: a few of them are enough.
            repeated = min(tasks, count(5, 2)) if peer.slow and len(pods) > 1 else tasks
            say(f"pods: {len(pods)}: {peer.name} ({peer.link})")
            rows.measure(
                workloads,
                peer.name,
                peer.link,
                lambda peer=peer, repeated=repeated: samples(peer, pods, repeated, forks, len(workloads)),
            )


def samples(peer, pods, tasks, forks, number):
    before = bridges_cpu()
    outcome = playbooks.run(settings.CORE, peer, pods, [playbooks.play("many", [TRUE] * tasks)], forks, timeout=400)
    spent = outcome.processor + bridges_cpu() - before
    each = len(pods) * tasks / 1000
    return [outcome.seconds["many"] / each, spent / each][:number]


def bridges_cpu():
    """Returns the processor seconds of all bridges of this run."""
    ticks = 0
    for process in testbed.bridges():
        fields = (process / "stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
