"""Scenarios for the operator of an executor: the end of a build, hostile clients at its ports, and how to opt out."""

import os
import random
import resource
import shutil
import socket
from contextlib import contextmanager

from tier import kube, leftovers, settings
from tier.scenarios.losses import HOST, counting, expect_numbers
from tier.session import require_podbridge


def stop(session):
    """End of a build and of a crashed executor: immediate, with nothing left over and nothing in HOME."""
    nodes = [*session.project_nodes("one"), session.node("two")]
    build = session.run(nodes, "hello")
    if settings.is_podbridge():
        # Zuul waits for the log of one host only. The stock peer often lacks the lines of the other host.
        build.joblog().expect_once("one | hello from one", "two | hello from two")
    forwards = len(build.port_forwards)
    took = build.close()
    session.builds.remove(build)
    assert forwards == 2 and took < 1, f"stopping {forwards} port-forwards took {took:.1f} s"
    leftovers.expect_none()
    assert not os.path.exists(build.jobdir.root), f"{build.jobdir.root} is there again"
    if not settings.is_podbridge():
        return
    mark = f"[build: {build.build_request.uuid}] Rest of kubectl port forward output was: "
    log = (settings.WORK / "executor.log").read_text().split(mark)[1:]
    assert len(log) == forwards, f"Zuul logged {len(log)} of {forwards} ends"
    for rest in log:
        output = rest.split("\n2")[0].strip().splitlines()
        assert len(output) == 1 and output[0].endswith(" -> 19886"), f"the port-forward was not silent: {output}"
    # After a crash an operator removes the job directories, and no process stops the port-forwards.
    build = session.build(nodes, "hello")
    shutil.rmtree(build.jobdir.root)
    kube.wait_for("the end of port-forwards whose build is gone", lambda: not leftovers.processes(), 60)


def garbage(session):
    """10,000 connections, partial requests and garbage at the stream port of a build: its log stays complete."""
    require_podbridge()
    node = session.node(HOST)
    build = counting(session, node, 3000, 0.01)
    port = build.port_forwards[0].port1
    (pid,) = [pid for pid, command in leftovers.processes() if "port-forward" in command and "sh -c" not in command]
    before = memory(pid)
    idle = []
    with raised_file_limit():
        try:
            for number in range(10000):
                idle += send_hostile_request(port, number)
            grown = memory(pid) - before
            build.wait(180)
        finally:
            for connection in idle:
                connection.close()
    assert build.result == "SUCCESS", f"the result is {build.result} ({build.detail})"
    expect_numbers(build, 3000)
    assert grown < 64 << 20, f"the bridge has grown by {grown >> 20} MiB with {len(idle)} idle connections"
    kube.wait_for("closed connections", lambda: len(os.listdir(f"/proc/{pid}/fd")) < 100, 10)


def send_hostile_request(port, number):
    """Sends one bad request; returns the connection in a list if it stays open, which is every fifth."""
    rng = random.Random(number)
    requests = (
        b"",
        rng.randbytes(rng.randrange(1, 3000)),
        b"s:half-a-request",
        b"v:" + b"0" * 5000,
        b"v:0\ns:../../../etc/passwd\n",
        b"f:\n\n\n\0\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"s:" + b"x" * 1000 + b"\n",
        b"s:there-is-none\n",
        b"v:0\n",
    )
    connection = socket.create_connection(("127.0.0.1", port), 10)
    try:
        connection.sendall(requests[number % len(requests)])
    except OSError:
        pass
    if number % 5 == 0:
        return [connection]
    connection.close()
    return []


@contextmanager
def raised_file_limit():
    """Raises this process's limit of open files; the bridge keeps the limit that it was started with."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def memory(pid):
    """Returns the resident memory of a process in bytes."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmRSS"))


def optout(session):
    """Opting out: ansible_podbridge=false for one host, PODBRIDGE_DISABLE=1 for an executor."""
    require_podbridge()
    node = session.node(HOST)
    build = session.run([node], "hello", host_variables={HOST: {"ansible_podbridge": False}})
    build.joblog().expect_once(f"{HOST} | hello from {HOST}")
    assert stock_execs(build), "the stock plugin was not used"
    build.close()
    session.builds.remove(build)
    os.environ["PODBRIDGE_DISABLE"] = "1"
    try:
        build = session.run([node], "hello")
    finally:
        del os.environ["PODBRIDGE_DISABLE"]
    build.joblog().expect_once(f"{HOST} | hello from {HOST}")
    assert os.listdir(build.jobdir.kube_dir) == ["config"], (
        f"files beside kube/config: {os.listdir(build.jobdir.kube_dir)}"
    )
    programs = {
        os.path.realpath(f"/proc/{pid}/exe") for pid, command in leftovers.processes() if "port-forward" in command
    }
    assert str(settings.STOCK / "kubectl") in programs, f"the port-forward is {programs}"
    assert stock_execs(build), "the stock plugin was not used"
    # The stock kubectl keeps its cache there.
    shutil.rmtree(settings.HOME / ".kube")


def stock_execs(build):
    """Returns the lines of the executor's log that the stock plugin prints for a command; this executor sets -vvv."""
    log = (settings.WORK / "executor.log").read_text(errors="replace")
    return [line for line in log.splitlines() if build.build_request.uuid in line and "EXEC [" in line]
