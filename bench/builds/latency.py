"""Benchmark of the live log's latency: from the write in the pod, through the API server, to the executor's stream
socket.

Pods run on this machine, so writer and reader have the same clock. The stock peer is Zuul's own zuul_console daemon in
the pod, behind `kubectl port-forward`.
"""

import socket
import subprocess
import time
import uuid

from tier import kube, settings

from builds import rows

LINES = rows.count(300, 100)
ROUNDS = rows.count(2, 1)
WRITER = """
import random, sys, time
random.seed(1)
with open(sys.argv[1], "wb", buffering=0) as log:
    time.sleep(3)
    for _ in range(int(sys.argv[2])):
        time.sleep(random.uniform(0, 0.1))
        log.write(b"%d\\n" % time.time_ns())
    log.write(b"end\\n")
"""


def bench_latency(session):
    """Latency of a line of the live log, from the pod to the executor's stream socket."""
    for _ in range(ROUNDS):
        for peer in rows.PEERS:
            with settings.temporary_peer(peer):
                node = session.node()
                # The playbook starts the daemon.
                build = session.run([node], "hello")
                delays = measure(node, build.port_forwards[0].port1)
                session.end(build)
                kube.delete_pod(*node[1:])
            for percent in (50, 99):
                rows.add(f"zuul-line-p{percent}", peer, rows.percentile(delays, percent))


def measure(node, port):
    """Returns the latency of each line in milliseconds."""
    _name, namespace, pod = node
    log_id = uuid.uuid4().hex
    write = ["exec", pod, "--", "python3", "-c", WRITER, f"/tmp/console-{log_id}.log", str(LINES)]
    command = [*namespace.cluster.command(), "-n", namespace.name, *write]
    with subprocess.Popen(command, env=kube.ADMIN) as writer:
        try:
            delays = read(port, log_id)
        finally:
            writer.terminate()
    assert len(delays) == LINES, f"{len(delays)} of {LINES} lines"
    return delays


def read(port, log_id):
    """Reads a log from the stream socket; returns the milliseconds from the time in each line to its arrival."""
    delays, buffered = [], b""
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.sendall(b"v:0\n")
        assert connection.recv(2) == b"1\n"
        connection.sendall(f"s:{log_id}\n".encode())
        while True:
            data = connection.recv(65536)
            now = time.time_ns()
            assert data, "the stream has ended"
            *lines, buffered = (buffered + data).split(b"\n")
            for line in lines:
                if line == b"end":
                    return delays
                if line != b"[Zuul] Log not found":
                    delays.append((now - int(line)) / 1e6)
