"""This file owns what goes away in the middle of a build: a pod, the API server; and a pod that comes late."""

import os
import shutil
import subprocess
import time

from tier import kube, settings
from tier.session import only_podbridge

HOST = "node"


def counting(session, node, numbers, pause):
    """A build in the background that has begun to count."""
    build = session.start(session.build([node], "counting", variables={"numbers": numbers, "pause": pause}))
    kube.wait_for("the first numbers", lambda: build.ended() or "number 10" in build.joblog().of(HOST), 60)
    assert not build.ended(), "the build ended before it counted"
    return build


def expect_numbers(build, last):
    have = [text for text in build.joblog().of(HOST) if text.startswith("number ")]
    wanted = [f"number {n}" for n in range(1, last + 1)]
    missing = sorted(set(wanted) - set(have), key=wanted.index)
    twice = len(have) - len(set(have))
    assert have == wanted, f"{len(have)} of {last} numbers in the log; missing {missing[:3]}…, {twice} twice"


def lost_pod(session):
    """A pod is deleted under a task: unreachable for Zuul, and the live log says which pod and why."""
    # With the stock kubectl it is "exit code 137" and Zuul's result a FAILURE.
    only_podbridge()
    node = session.node(HOST)
    _name, place, pod = node
    build = counting(session, node, 6000, 0.1)
    begun = time.monotonic()
    kube.delete_pod(place, pod)
    build.wait(60)
    took = time.monotonic() - begun
    log = build.joblog()
    assert build.result is None and build.unreachable, (
        f"Zuul's result is {build.result}, unreachable {build.unreachable}"
    )
    assert build.unreachable_nodes == {HOST}, build.unreachable_nodes
    numbers = [text for text in log.of(HOST) if text.startswith("number ")]
    assert numbers == [f"number {n}" for n in range(1, len(numbers) + 1)], "the numbers before the loss have holes"
    log.expect_match(rf"^{HOST} \| \[Zuul\] pod {pod} lost: \S", rf"^{HOST} \| ERROR.*{pod}|^{HOST} \|.*\"msg\".*{pod}")
    log.refuse("Log Stream did not terminate")
    assert took < 20, f"it took {took:.0f} s to tell"


def api_restart(session):
    """The API server is killed and comes back while a task counts over it: the task goes on, the log is whole."""
    only_podbridge()
    node = session.node(HOST)
    os.environ["PODBRIDGE_LINK"] = "exec-proxy"
    try:
        build = counting(session, node, 400, 0.1)
    finally:
        del os.environ["PODBRIDGE_LINK"]
    restarted = subprocess.run(
        [settings.ROOT / "tests/cluster/cluster", "restart-api"], env=settings.CLUSTER_ENVIRON, capture_output=True
    )
    assert restarted.returncode == 0, restarted.stderr.decode()
    build.wait(120)
    assert build.result == "SUCCESS", f"the result is {build.result} ({build.detail})"
    expect_numbers(build, 400)
    build.joblog().expect_once(f"{HOST} | counted").refuse("lost", "Log Stream did not terminate")


def late_pod(session):
    """A pod that starts 20 s late: the port-forward is there at once, and the job works."""
    only_podbridge()
    late = {**kube.container("late", "busybox"), "command": ["sleep", "20"]}
    node = session.node(HOST, wait=False, initContainers=[late])
    begun = time.monotonic()
    build = session.build([node], "hello")
    took = time.monotonic() - begun
    assert took < 3, f"the port-forward took {took:.1f} s to start"
    assert len(build.port_forwards) == 1, "no port-forward"
    build.play()
    assert build.result == "SUCCESS", f"the result is {build.result} ({build.detail})"
    assert time.monotonic() - begun > 15, "the pod was not late"
    build.joblog().expect_once(f"{HOST} | hello from {HOST}")


def restarted_container(session):
    """A container dies under a task and comes back empty, as a misplaced restartPolicy has it: it stays lost."""
    only_podbridge()
    node = session.node(HOST)
    _name, place, pod = node
    build = counting(session, node, 6000, 0.1)
    kube.in_pod(place, pod, "sh", "-c", "kill -KILL -1; kill -TERM 1", check=False)
    build.wait(60)
    assert build.result is None and build.unreachable_nodes == {HOST}, (build.result, build.unreachable_nodes)
    build.joblog().expect_match(rf"^{HOST} \| \[Zuul\] pod {pod} lost: \S")
    kube.wait_pod(place, pod)
    context = f"--context={build.nodeset.getNodes()[0].kubectl_context}"
    _result, code = build.in_sandbox("kubectl", context, "exec", pod, "--", "true")
    assert code == 1, f"an empty machine was used: exit code {code}"
    log = (settings.WORK / "executor.log").read_text(errors="replace")
    assert "is no longer the machine that this build began with" in log, "the reason was not said"


def replaced_binaries(session):
    """A package is installed over the running one under a task: the build goes on, and so does its live log."""
    only_podbridge()
    node = session.node(HOST)
    build = counting(session, node, 100, 0.1)
    for name in ("kubectl", "oc", "podbridge", "podbridge-agent"):
        # As install and package managers do it: another file of that name.
        new = settings.SHIM / f"{name}.new"
        shutil.copy(settings.SHIM / name, new)
        new.rename(settings.SHIM / name)
    build.wait(60)
    assert build.result == "SUCCESS", f"the result is {build.result} ({build.detail})"
    expect_numbers(build, 100)
    build.joblog().expect_once(f"{HOST} | counted")


def abort(session):
    """Zuul aborts a job (SIGKILL for its playbook): within seconds nothing of its task runs in the pod."""
    only_podbridge()
    node = session.node(HOST)
    build = counting(session, node, 6000, 0.1)
    build.stop("a new patch set")
    build.wait(30)
    assert build.result == "ABORTED", f"the result is {build.result}"
    find = ("sh", "-c", "ps -e -o args= | grep -F 'number $i' | grep -vF grep || :")
    kube.wait_for("the end of the task in the pod", lambda: not kube.in_pod(*node[1:], *find).strip(), 10)
