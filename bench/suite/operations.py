"""One operation without Ansible, as a process and over a connection that is open; and the memory of an idle pod."""

import os
import subprocess
import time

from suite import many_pods, settings, testbed, warm_clients
from suite.rows import Failed, say
from suite.settings import count
from suite.testbed import KUBECTL, POD, SSH, TARGET, podbridge

REST = 12  # seconds after which a warm interpreter without modules has given memory back (REST of the agent is 10)


def measure(rows, address):
    processes(rows, address)
    connections(rows, address)


def processes(rows, address):
    """`exec true` as a whole process, and its processor time."""
    mux = ["-o", "ControlMaster=auto", "-o", "ControlPersist=60", "-o", f"ControlPath={settings.WORK}/mux/operation"]
    methods = {
        ("podbridge", "direct"): podbridge("--link", "direct", "exec", POD, "--", "true"),
        ("podbridge", "exec-proxy"): podbridge("--link", "exec-proxy", "exec", POD, "--", "true"),
        ("ssh", "ssh"): [*SSH, *mux, f"root@{address}", "true"],
        ("kubectl-exec", "api"): [*KUBECTL, "exec", POD, "--", "true"],
    }
    # The first one opens the connection.
    for number in range(count(41, 11)):
        for (peer, link), command in methods.items():
            if number == 0:
                rows.measure([], peer, link, lambda command=command: timed(command) and [])
            else:
                rows.measure(["exec-true", "exec-true-cpu"], peer, link, lambda command=command: timed(command))
    subprocess.run([*SSH, *mux, "-O", "exit", f"root@{address}"], capture_output=True, check=False)


def timed(command):
    """Returns the milliseconds that a command took, and those of its processor time."""
    before, start = testbed.children_seconds(), time.monotonic()
    done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    took, spent = time.monotonic() - start, testbed.children_seconds() - before
    if done.returncode:
        raise Failed(done.stderr.decode(errors="replace"))
    return [took * 1000, spent * 1000]


def connections(rows, address):
    """`true` over an open connection, one after the other."""
    clients = {
        ("podbridge", "direct"): lambda: warm_clients.Bridge("direct"),
        ("podbridge", "exec-proxy"): lambda: warm_clients.Bridge("exec-proxy"),
        ("ssh", "ssh"): lambda: warm_clients.Ssh(address),
    }
    for (peer, link), make in clients.items():
        rows.measure([], peer, link, lambda peer=peer, link=link, make=make: repeat(rows, peer, link, make()))


def repeat(rows, peer, link, client):
    try:
        for number in range(count(210, 60)):
            start = time.monotonic()
            client.true()
            # The first ones warm both sides up.
            if number >= 10:
                rows.add("warm-true", peer, link, (time.monotonic() - start) * 1000)
    finally:
        client.close()
    return []


def memory(rows):
    """Anonymous memory of the bridge and the agent of a pod that has done nothing yet, and of a warm interpreter."""
    with testbed.pods(["bench-idle"]) as pods:
        environment = {**os.environ, "PODBRIDGE_DIR": str(settings.WORK / "idle")}

        def run(*arguments):
            testbed.run([settings.BIN / "podbridge", *TARGET, *arguments], env=environment)

        def idle():
            run("exec", "bench-idle", "--", "true")
            time.sleep(3)  # the bridge changes to the direct link, and both sides give memory back
            inside = testbed.exec_in_pod("readlink /proc/self/ns/pid", "bench-idle").decode().strip()
            (bridge,) = testbed.marked_processes(settings.WORK / "idle")
            agents = [
                entry for entry in testbed.in_namespace(inside) if testbed.program(entry).startswith("podbridge-agent")
            ]
            return [private(bridge), sum(private(agent) for agent in agents)]

        def warm():
            play = many_pods.playbooks.play("warm", [many_pods.TRUE] * 4)
            peer = next(peer for peer in many_pods.peers.PEERS if peer.name == "podbridge")
            many_pods.playbooks.run(settings.CORE, peer, pods, [play])
            busy = warm_memory()
            time.sleep(REST)
            return [*warm_memory(), busy[0]]

        def warm_memory():
            inside = testbed.exec_in_pod("readlink /proc/self/ns/pid", "bench-idle").decode().strip()
            names = ("podbridge-agent", "python3")
            chosen = [entry for entry in testbed.in_namespace(inside) if testbed.program(entry).startswith(names)]
            if not any(testbed.program(entry).startswith("python3") for entry in chosen):
                raise Failed("there is no warm interpreter")
            return [sum(field(entry / "smaps_rollup", part) for entry in chosen) / 1000 for part in ("Pss_Anon", "Pss")]

        try:
            rows.measure(["memory-bridge", "memory-agent"], "podbridge", "direct", idle)
            rows.measure(["memory-warm", "memory-warm-files", "memory-warm-busy"], "podbridge", "direct", warm)
            rows.measure(["memory-bridge"], "kubectl", "api", port_forward)
        finally:
            run("stop", "--all")
    say("memory measured")


def private(process):
    """Returns the anonymous memory of a process in MB."""
    return field(process / "status", "RssAnon") / 1000


def field(path, name):
    """Returns a number in kB of a file of /proc."""
    return next(int(line.split()[1]) for line in path.read_text().splitlines() if line.startswith(f"{name}:"))


def port_forward():
    """The process of an idle `kubectl port-forward`, which Zuul has for each pod."""
    process = subprocess.Popen(
        [*KUBECTL, "port-forward", "pod/bench-idle", ":19885"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        process.stdout.readline()
        time.sleep(3)  # as long as the bridge had
        return [private(testbed.PROC / str(process.pid))]
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()
