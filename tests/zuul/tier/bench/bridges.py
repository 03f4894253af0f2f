"""This file owns what a port-forward costs the executor while its pod is idle: memory, wake-ups, processor time; of one
and of a hundred.
"""

import os
import time
from dataclasses import replace

from tier import kube, leftovers, meter, settings
from tier.bench import table

PODS = 100
MINUTE = 60


def bench_idle(session):
    """One bridge with an idle pod, beside one kubectl port-forward."""
    costs = {}
    for peer in table.PEERS:
        with settings.as_peer(peer):
            node = session.node()
            build = session.run([node], "hello")
            costs[peer] = idle_minute(forwards(), 20)
            session.end(build)
            kube.delete_pod(*node[1:])
    show("one port-forward, its pod idle for a minute", costs, "2 MB", "keepalives")


def bench_100_pods(session):
    """The port-forwards of 100 pods on one executor."""
    place, pods = start_pods(session)
    # Zuul names a user by namespace and account, and kubectl refuses two of one name.
    nodes = [(pod, replace(place, user=f"{place.user}-{pod}"), pod) for pod in pods]
    costs = {}
    for peer in table.PEERS:
        with settings.as_peer(peer):
            begun = time.monotonic()
            build = session.build(nodes, "hello")
            took = time.monotonic() - begun
            pids = forwards()
            assert len(pids) == len(pods), f"{len(pids)} port-forwards of {len(pods)} pods"
            costs[peer] = idle_minute(pids, 180) | {"start": took}
            session.end(build)
    show(f"{len(pods)} pods on one executor, idle for a minute", costs, "", "")


def start_pods(session):
    """As many as the machine carries."""
    place = kube.make_place(session.name)
    names = [f"pod-{number}" for number in range(PODS)]
    pods = [kube.pod(name, [kube.container("main", "busybox")]) for name in names]
    kube.apply({"apiVersion": "v1", "kind": "List", "items": pods}, place.namespace)
    wait = ("wait", "--for=condition=Ready", "pod", "--all", "--timeout=300s")
    kube.kubectl(*wait, namespace=place.namespace, timeout=330, check=False)
    ready = '{range .items[?(@.status.containerStatuses[0].ready==true)]}{.metadata.name}{"\\n"}{end}'
    return place, kube.kubectl("get", "pods", "-o", f"jsonpath={ready}", namespace=place.namespace).decode().split()


def forwards():
    """The processes themselves, not Zuul's loops around them."""
    return [pid for pid, command in leftovers.processes() if "port-forward" in command and "while !" not in command]


def idle_minute(pids, settle):
    """What they cost together, after they have settled: at most so many seconds until none needs the processor."""
    end = time.monotonic() + settle
    busy = True
    while busy and time.monotonic() < end:
        before = processor(pids)
        time.sleep(10)
        busy = processor(pids) - before > 0.01 * len(pids)
    before = processor(pids), switches(pids)
    time.sleep(MINUTE)
    after = processor(pids), switches(pids)
    memory = [status(f"/proc/{pid}/status") for pid in pids]
    return {
        "anonymous": sum(int(each["RssAnon"].split()[0]) for each in memory) / 1e3,
        "resident": sum(int(each["VmRSS"].split()[0]) for each in memory) / 1e3,
        "processor": after[0] - before[0],
        "switches": after[1] - before[1],
    }


def status(path):
    with open(path) as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


def switches(pids):
    """Voluntary ones, of all threads: each is a wake-up."""
    tasks = [f"/proc/{pid}/task/{task}/status" for pid in pids for task in os.listdir(f"/proc/{pid}/task")]
    return sum(int(status(task)["voluntary_ctxt_switches"]) for task in tasks)


def processor(pids):
    return sum(meter.processor(pid) for pid in pids)


def show(title, costs, anonymous_goal, switches_goal):
    shapes = (
        ("start", "until Zuul has all of them", "{:.1f} s", ""),
        ("anonymous", "anonymous memory", "{:.1f} MB", anonymous_goal),
        ("resident", "resident memory", "{:.1f} MB", ""),
        ("switches", "voluntary context switches", "{:.0f}", switches_goal),
        ("processor", "processor time", "{:.2f} s", ""),
    )
    rows = [
        (what, {peer: costs[peer][key] for peer in costs}, shape, goal)
        for key, what, shape, goal in shapes
        if key in costs["stock"]
    ]
    table.show(title, rows)
