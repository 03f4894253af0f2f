"""Scenarios of jobs that make their pods themselves, in a namespace that Zuul gives them."""

import contextlib
import os
import re
import shutil
import statistics
import sys
import time

from tier import kube, leftovers, settings
from tier.build import playbook
from tier.session import require_podbridge

# Half of the lines have to come within a tenth of a second. A single one may come late on a loaded machine. Without a
# live log a line comes after the task, which takes three seconds.
USUAL_LAG, LONGEST_LAG = 0.1, 2
# Seconds until a job has made its pods, on a loaded machine.
FIRST_LINE = 300
HOSTS = {"left": "web", "left-side": "web", "right": "web", "plain": "plain"}
# Its live log is Zuul's own.
MACHINE = "machine"
# Runs the last argument in the pod `machine` with the stock kubectl. Untrusted jobs may not set ansible_ssh_executable.
SSH = """#!/bin/sh
for argument; do
	case $argument in User=*) context=${argument#User=} ;; esac
done
context=${context#'"'}
exec env PODBRIDGE_DISABLE=1 kubectl --context="${context%'"'}" exec -i machine -- sh -c "$argument"
"""


@contextlib.contextmanager
def collection():
    """Installs the collection as an operator does, where the sandbox shows it."""
    directory = settings.SHIM / "collections"
    target = directory / "ansible_collections" / "podbridge" / "zuul"
    shutil.copytree(settings.ROOT / "ansible", target, ignore=shutil.ignore_patterns("tests"))
    # A conditional of a role that is neither true nor false is an error, as in ansible-core 2.19 and newer.
    environ = {"ANSIBLE_COLLECTIONS_PATH": str(directory), "ANSIBLE_ALLOW_BROKEN_CONDITIONALS": "false"}
    os.environ.update(environ)
    try:
        yield
    finally:
        for name in environ:
            del os.environ[name]
        shutil.rmtree(directory)


@contextlib.contextmanager
def machine():
    """Installs the stand-in for ssh that leads to the machine."""
    ssh = settings.SHIM / "ssh"
    ssh.write_text(SSH)
    ssh.chmod(0o755)
    try:
        yield
    finally:
        ssh.unlink()


def bridges():
    """Returns the pids of this run's bridges. A bridge keeps no environment; the path of its program tells it."""
    program = f"{settings.SHIM}/podbridge".encode()
    return [pid for pid, command in commands() if command[:2] == [program, b"bridge"]]


def commands():
    """Returns (pid, command line) of all processes of this machine, among them those of the cluster's containers."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
            found.append((pid, file.read().split(b"\0")))
    return found


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
    with collection(), machine():
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
            kube.wait_for("the end of the bridges", lambda: not bridges())
        lose_pod(session, nodes, variables)


def expect_lines(log, lags):
    for host, pod in {**HOSTS, MACHINE: MACHINE}.items():
        log.expect_once(f"{host} | I am {pod} of {host}")
        lines = [text for text in log.lines_of(host) if " written " in text]
        assert len(lines) == 6 and len(set(lines)) == 6, f"{host}: {lines}"
        assert all(text.startswith(f"{host} written") for text in lines), f"{host} has lines of others: {lines}"
        assert max(lags[host]) < LONGEST_LAG, f"{host}: lines came after {max(lags[host]):.2f} s"
    log.refuse("never seen", "Log Stream did not terminate", "Waiting on logger to")
    expect_prompt([lag for host in HOSTS for lag in lags[host]])


def expect_prompt(lags):
    """Asserts that lines were in the live log soon after they were written, with clocks of one machine."""
    assert len(lags) >= 20, f"{len(lags)} lines are too few"
    median = statistics.median(lags)
    print(
        f"zuul: {len(lags)} lines: half within {1000 * median:.0f} ms, all within {1000 * max(lags):.0f} ms",
        file=sys.stderr,
    )
    assert median <= USUAL_LAG, f"half of the lines came later than {1000 * median:.0f} ms"


def lose_pod(session, nodes, variables):
    """A pod of the job's own is deleted during a task: the host is unreachable, and the live log has the reason."""
    build = session.start(session.build(nodes, "job_pods", variables={**variables, "slow": True}))
    first = "right written"
    kube.wait_for("the first line", lambda: build.has_ended() or first in build.log_text(), FIRST_LINE)
    kube.delete_pod(nodes[1][1], "web")
    build.wait(60)
    assert build.result is None and build.unreachable, f"{build.result}, unreachable {build.unreachable}"
    build.joblog().expect_match(r"^right \| \[Zuul\] pod web lost: \S", r"^right \|.*msg.*web was deleted")


def aborted_job(session):
    """Job aborted during a task in a pod of its own: nothing of it is left in the cluster or on the executor."""
    require_podbridge()
    with collection():
        abort_job(session, session.namespace_node("cluster"))


def abort_job(session, node):
    build = session.start(session.build([node], "aborted_job", variables={"image": kube.IMAGES["debian"]}))
    kube.wait_for("the first line", lambda: build.has_ended() or "web written" in build.log_text(), FIRST_LINE)
    paths = sockets_of(bridges())
    assert paths, "the bridges have no sockets"
    assert task_runs(), "the task is not found"
    root = build.jobdir.root
    build.stop("a new patch set")
    build.wait(30)
    assert build.result == "ABORTED", f"the result is {build.result}"
    session.end(build)
    leftovers.expect_none(10)
    kube.wait_for("the end of the bridges", lambda: not bridges())
    assert not os.path.exists(root), "the directory of the build with its kubeconfig is left"
    left = paths & set(sockets().values())
    assert not left, f"sockets are left: {left}"
    # The bridge ends with the sandbox, before it can end the task. The namespace ends it.
    session.remove(node)
    kube.wait_for("the end of the task", lambda: not task_runs())


def task_runs():
    """Returns whether the task of the aborted job runs."""
    return any(b'echo "web written $(date' in word for _pid, command in commands() for word in command)


def sockets():
    """Returns {inode: path} of the Unix sockets with a path, or a name, in this network namespace."""
    with open("/proc/net/unix") as table:
        rows = [line.split() for line in table]
    return {row[6]: row[7] for row in rows if len(row) > 7}


def sockets_of(pids):
    """Returns the paths of the Unix sockets of these processes."""
    inodes = set()
    for entry in (entry for pid in pids for entry in os.scandir(f"/proc/{pid}/fd")):
        with contextlib.suppress(FileNotFoundError):  # a file that was closed meanwhile
            inodes.add(os.readlink(entry.path).removeprefix("socket:[").removesuffix("]"))
    return {path for inode, path in sockets().items() if inode in inodes}
