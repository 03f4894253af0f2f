"""This file owns what an executor's operator sees: the end of a build, strangers at its ports, the ways to opt out."""

import os
import random
import resource
import shutil
import socket
from contextlib import contextmanager

from tier import kube, leftovers, settings
from tier.scenarios.losses import HOST, counting, expect_numbers
from tier.session import only_podbridge


def stop(session):
    """The end of a build and of a crashed executor: at once, with nothing left and nothing in HOME."""
    nodes = [session.node("one"), session.node("two")]
    build = session.run(nodes, "hello")
    if settings.podbridge():
        # Zuul waits for the log of one host only; of the other, stock often has no line when the playbook ends.
        build.joblog().expect_once("one | hello from one", "two | hello from two")
    forwards = len(build.port_forwards)
    took = build.close()
    session.builds.remove(build)
    assert forwards == 2 and took < 1, f"stopping {forwards} port-forwards took {took:.1f} s"
    leftovers.expect_none()
    assert not os.path.exists(build.jobdir.root), f"{build.jobdir.root} is there again"
    if not settings.podbridge():
        return
    mark = f"[build: {build.build_request.uuid}] Rest of kubectl port forward output was: "
    log = (settings.WORK / "executor.log").read_text().split(mark)[1:]
    assert len(log) == forwards, f"Zuul logged {len(log)} of {forwards} ends"
    for rest in log:
        said = rest.split("\n2")[0].strip().splitlines()
        assert len(said) == 1 and said[0].endswith(" -> 19886"), f"the port-forward was not silent: {said}"
    # An executor that crashed: somebody removes its job directories, nobody stops its port-forwards.
    build = session.build(nodes, "hello")
    shutil.rmtree(build.jobdir.root)
    kube.wait_for("the end of port-forwards whose build is gone", lambda: not leftovers.processes(), 60)


def garbage(session):
    """10,000 connections, half requests and garbage at a build's stream port: its log is whole."""
    only_podbridge()
    node = session.node(HOST)
    build = counting(session, node, 3000, 0.01)
    port = build.port_forwards[0].port1
    (pid,) = [pid for pid, command in leftovers.processes() if "port-forward" in command and "sh -c" not in command]
    before = memory(pid)
    idle = []
    with many_files():
        try:
            for number in range(10000):
                idle += bother(port, number)
            grown = memory(pid) - before
            build.wait(180)
        finally:
            for connection in idle:
                connection.close()
    assert build.result == "SUCCESS", f"the result is {build.result} ({build.detail})"
    expect_numbers(build, 3000)
    assert grown < 64 << 20, f"the bridge has grown by {grown >> 20} MiB with {len(idle)} idle connections"
    kube.wait_for("closed connections", lambda: len(os.listdir(f"/proc/{pid}/fd")) < 100, 10)


def bother(port, number):
    """One connection; every fifth stays open and is returned."""
    words = random.Random(number)
    requests = (
        b"",
        words.randbytes(words.randrange(1, 3000)),
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
def many_files():
    """The bridge was started with the executor's limit; this is the strangers' one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def memory(pid):
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmRSS"))


def optout(session):
    """ansible_podbridge: false for one host, PODBRIDGE_DISABLE=1 for an executor."""
    only_podbridge()
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
    # Stock's doing.
    shutil.rmtree(settings.HOME / ".kube")


def stock_execs(build):
    """What the stock plugin says with -vvv, which this executor sets."""
    log = (settings.WORK / "executor.log").read_text(errors="replace")
    return [line for line in log.splitlines() if build.build_request.uuid in line and "EXEC [" in line]
