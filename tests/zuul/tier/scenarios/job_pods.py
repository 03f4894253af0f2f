"""Scenarios of jobs that make their pods themselves, in a namespace that Zuul gives them."""

import contextlib
import os
import re
import shutil
import sys
import time

from tier import kube, settings
from tier.build import playbook
from tier.session import require_podbridge

# A line may come late on a loaded machine. Without a live log it comes after the task, which takes three seconds.
LONGEST_LAG = 2
PORT = 19885


@contextlib.contextmanager
def collection():
    """Installs the collection as an operator does, where the sandbox shows it."""
    directory = settings.SHIM / "collections"
    target = directory / "ansible_collections" / "podbridge" / "zuul"
    shutil.copytree(settings.ROOT / "ansible", target, ignore=shutil.ignore_patterns("tests"))
    os.environ["ANSIBLE_COLLECTIONS_PATH"] = str(directory)
    try:
        yield
    finally:
        del os.environ["ANSIBLE_COLLECTIONS_PATH"]
        shutil.rmtree(directory)


def listeners():
    """Returns how many sockets of this network namespace listen at the port of the live log."""
    with open("/proc/net/tcp") as table:
        rows = [line.split() for line in table][1:]
    return sum(row[3] == "0A" and row[1].endswith(f":{PORT:04X}") for row in rows)


def watch(build):
    """Waits for the end of a build and returns, by host, after how many seconds each line was in the live log."""
    lags = {}
    while not build.has_ended():
        text, now = build.log_text(), time.time()
        for host, written in re.findall(r"\| (\S+) written (\d+\.\d+)", text):
            lags.setdefault(host, {}).setdefault(written, now - float(written))
        time.sleep(0.005)
    build.wait(1)
    return {host: list(of_host.values()) for host, of_host in lags.items()}


def job_pods(session):
    """Pods that a job makes itself: each has a live log, also of one name, with two containers, and without a role."""
    require_podbridge()
    with collection():
        nodes = [session.namespace_node(name) for name in ("left", "right")]
        one = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [kube.container("main")]}
        two = {"spec": {**one, "containers": [kube.container("main"), kube.container("side")]}}
        variables = {"image": kube.IMAGES["debian"], "one_container": one, "two_containers": two}
        for trusted in (True, False):
            run = [playbook("playbooks/job_pods.yaml", "org/project", trusted=trusted)]
            build = session.start(session.build(nodes, run=run, variables=variables))
            lags = watch(build)
            assert build.result == "SUCCESS", f"the result is {build.result} ({build.detail})"
            expect_lines(build.joblog(), lags)
            session.end(build)
            kube.wait_for("the end of the bridges", lambda: not listeners())
        lose_pod(session, nodes, variables)


def expect_lines(log, lags):
    hosts = ("left", "left-side", "right", "plain")
    for host in hosts:
        pod = "plain" if host == "plain" else "web"
        log.expect_once(f"{host} | I am {pod} of {host}")
        lines = [text for text in log.lines_of(host) if " written " in text]
        assert len(lines) == 6 and len(set(lines)) == 6, f"{host}: {lines}"
        assert all(text.startswith(f"{host} written") for text in lines), f"{host} has lines of others: {lines}"
        assert max(lags[host]) < LONGEST_LAG, f"{host}: lines came after {max(lags[host]):.2f} s"
    log.refuse("never seen", "Log Stream did not terminate", "Waiting on logger to")
    first = max(lags[host][0] for host in hosts)
    every = max(max(lags[host]) for host in hosts)
    print(f"zuul: first lines within {1000 * first:.0f} ms, all within {1000 * every:.0f} ms", file=sys.stderr)


def lose_pod(session, nodes, variables):
    """A pod of the job's own is deleted during a task: the host is unreachable, and the live log has the reason."""
    build = session.start(session.build(nodes, "job_pods", variables={**variables, "slow": True}))
    first = "right written"
    kube.wait_for("the first line", lambda: build.has_ended() or first in build.log_text(), 90)
    kube.delete_pod(nodes[1][1], "web")
    build.wait(60)
    assert build.result is None and build.unreachable, f"{build.result}, unreachable {build.unreachable}"
    build.joblog().expect_match(r"^right \| \[Zuul\] pod web lost: \S", r"^right \|.*msg.*web was deleted")
