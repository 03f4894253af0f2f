"""Benchmarks of port-forwards on the executor while their pods are idle: memory, wake-ups and processor time of one
port-forward and of a hundred.
"""

import os
import time

from tier import kube, leftovers, meter, settings

from builds import rows

PODS = int(os.environ.get("BENCH_PODS") or 100)
MINUTE = 60


def bench_idle(session):
    """One bridge with an idle pod, and one kubectl port-forward, in the same minute."""
    builds, pids = [], {}
    for peer in rows.PEERS:
        with settings.temporary_peer(peer):
            builds.append(session.run([session.node()], "hello"))
            known = [pid for of_peer in pids.values() for pid in of_peer]
            pids[peer] = [pid for pid in port_forward_pids() if pid not in known]
    for peer, idle in measure_idle_minute(pids, 20).items():
        rows.add("zuul-idle-memory", peer, idle["anonymous"])
        rows.add("zuul-idle-switches", peer, idle["switches"])
    for build in builds:
        session.end(build)


def bench_100_pods(session):
    """The port-forwards of 100 pods on one executor."""
    namespace, pods = start_pods(session)
    # Zuul names a kubeconfig user by namespace and account, and kubectl refuses two users of one name.
    nodes = [(pod, namespace.as_user(f"{namespace.user}-{pod}"), pod) for pod in pods]
    for peer in rows.PEERS:
        with settings.temporary_peer(peer):
            started = time.monotonic()
            build = session.build(nodes, "hello")
            rows.add("zuul-100-start", peer, time.monotonic() - started)
            pids = port_forward_pids()
            assert len(pids) == len(pods), f"{len(pids)} port-forwards of {len(pods)} pods"
            idle = measure_idle_minute({peer: pids}, 60)[peer]
            rows.add("zuul-100-memory", peer, idle["anonymous"])
            rows.add("zuul-100-cpu", peer, idle["processor"])
            session.end(build)


def start_pods(session):
    """Starts up to PODS pods and returns their namespace and the names of those that became ready."""
    namespace = session.namespace()
    names = [f"pod-{number}" for number in range(PODS)]
    pods = [kube.pod(name, [kube.container("main", "busybox")]) for name in names]
    kube.apply({"apiVersion": "v1", "kind": "List", "items": pods}, namespace.name)
    wait = ("wait", "--for=condition=Ready", "pod", "--all", "--timeout=300s")
    kube.kubectl(*wait, namespace=namespace.name, timeout=330, check=False)
    ready = '{range .items[?(@.status.containerStatuses[0].ready==true)]}{.metadata.name}{"\\n"}{end}'
    return namespace, kube.kubectl("get", "pods", "-o", f"jsonpath={ready}", namespace=namespace.name).decode().split()


def port_forward_pids():
    """Returns the pids of the port-forwards, without the shell loops that Zuul runs them in."""
    return [pid for pid, command in leftovers.processes() if "port-forward" in command and "while !" not in command]


def measure_idle_minute(pids, settle):
    """Returns the memory (MB), processor time (s) and context switches of each peer's processes in one idle minute.

    `pids`: {peer: pids}. The minute starts when the processes need hardly any processor time, after `settle` seconds at
    the latest.
    """
    everybody = [pid for of_peer in pids.values() for pid in of_peer]
    deadline = time.monotonic() + settle
    busy = True
    while busy and time.monotonic() < deadline:
        before = total_cpu_seconds(everybody)
        time.sleep(10)
        busy = total_cpu_seconds(everybody) - before > 0.01 * len(everybody)
    before = {peer: usage(of_peer) for peer, of_peer in pids.items()}
    time.sleep(MINUTE)
    return {
        peer: {name: value - before[peer][name] for name, value in usage(of_peer).items()}
        | {"anonymous": anonymous_memory(of_peer)}
        for peer, of_peer in pids.items()
    }


def usage(pids):
    return {"processor": total_cpu_seconds(pids), "switches": context_switches(pids)}


def anonymous_memory(pids):
    """Returns the anonymous memory of these processes in MB."""
    return sum(int(read_status(f"/proc/{pid}/status")["RssAnon"].split()[0]) for pid in pids) / 1e3


def read_status(path):
    """Returns the fields of a `status` file of /proc."""
    with open(path) as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


def context_switches(pids):
    """Returns the voluntary context switches of all threads; each of them is a wake-up."""
    tasks = [f"/proc/{pid}/task/{task}/status" for pid in pids for task in os.listdir(f"/proc/{pid}/task")]
    return sum(int(read_status(task)["voluntary_ctxt_switches"]) for task in tasks)


def total_cpu_seconds(pids):
    return sum(meter.cpu_seconds(pid) for pid in pids)
