"""Scenarios in which a pod, container, API server or program goes away during a build, and one with a late pod."""

import os
import shutil
import subprocess
import time

from tier import kube, settings
from tier.session import LAUNCHER, require_podbridge

HOST = "node"


def counting(session, node, numbers, pause):
    """Starts a build in the background and returns it after its task has printed the first numbers."""
    build = session.start(session.build([node], "counting", variables={"numbers": numbers, "pause": pause}))
    kube.wait_for("the first numbers", lambda: build.has_ended() or "number 10" in build.joblog().lines_of(HOST), 60)
    assert not build.has_ended(), "the build ended before it counted"
    return build


def expect_numbers(build, last):
    """Asserts that the log has the numbers 1 to `last` once each, in order."""
    have = [text for text in build.joblog().lines_of(HOST) if text.startswith("number ")]
    wanted = [f"number {n}" for n in range(1, last + 1)]
    missing = sorted(set(wanted) - set(have), key=wanted.index)
    twice = len(have) - len(set(have))
    assert have == wanted, f"{len(have)} of {last} numbers in the log; missing {missing[:3]}…, {twice} twice"


def lost_pod(session):
    """Pod deleted during a task: Zuul finds it unreachable, and the live log gives the pod and the reason."""
    # With the stock kubectl the exit code is 137, and Zuul's result is FAILURE.
    require_podbridge()
    node = session.node(HOST, driver=LAUNCHER)
    _name, namespace, pod = node
    build = counting(session, node, 6000, 0.1)
    started = time.monotonic()
    kube.delete_pod(namespace, pod)
    build.wait(60)
    took = time.monotonic() - started
    log = build.joblog()
    assert build.result is None and build.unreachable, (
        f"Zuul's result is {build.result}, unreachable {build.unreachable}"
    )
    assert build.unreachable_nodes == {HOST}, build.unreachable_nodes
    numbers = [text for text in log.lines_of(HOST) if text.startswith("number ")]
    assert numbers == [f"number {n}" for n in range(1, len(numbers) + 1)], "the numbers before the loss have holes"
    log.expect_match(rf"^{HOST} \| \[Zuul\] pod {pod} lost: \S", rf"^{HOST} \| ERROR.*{pod}|^{HOST} \|.*\"msg\".*{pod}")
    log.refuse("Log Stream did not terminate")
    assert took < 20, f"the loss was reported after {took:.0f} s"


def api_restart(session):
    """API server killed and restarted during a task that uses it: the task goes on, the log is complete."""
    require_podbridge()
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
    """Pod that starts 20 s late: its port-forward is ready at once, and the job passes."""
    require_podbridge()
    late = {**kube.container("late", "busybox"), "command": ["sleep", "20"]}
    node = session.node(HOST, wait=False, initContainers=[late])
    started = time.monotonic()
    build = session.build([node], "hello")
    took = time.monotonic() - started
    assert took < 3, f"the port-forward took {took:.1f} s to start"
    assert len(build.port_forwards) == 1, "no port-forward"
    build.play()
    assert build.result == "SUCCESS", f"the result is {build.result} ({build.detail})"
    assert time.monotonic() - started > 15, "the pod was not late"
    build.joblog().expect_once(f"{HOST} | hello from {HOST}")


def restarted_container(session):
    """Container that dies during a task and restarts empty, because of a misplaced restartPolicy: it stays lost."""
    # The drivers write `restartPolicy: Never` beside the spec instead of into it, so the default `Always` applies.
    require_podbridge()
    node = session.node(HOST, containers=[kube.container("main")])
    _name, namespace, pod = node
    build = counting(session, node, 6000, 0.1)
    kube.exec_in_pod(namespace, pod, "sh", "-c", "kill -KILL -1; kill -TERM 1", check=False)
    build.wait(60)
    assert build.result is None and build.unreachable_nodes == {HOST}, (build.result, build.unreachable_nodes)
    build.joblog().expect_match(rf"^{HOST} \| \[Zuul\] pod {pod} lost: \S")
    kube.wait_pod(namespace, pod)
    context = f"--context={build.nodeset.getNodes()[0].kubectl_context}"
    _result, code = build.run_in_sandbox("kubectl", context, "exec", pod, "--", "true")
    assert code == 1, f"the restarted container was used: exit code {code}"
    log = (settings.WORK / "executor.log").read_text(errors="replace")
    assert "was restarted during the build" in log, "the log does not give the reason"


def replaced_binaries(session):
    """Package installed over the running one during a task: the build and its live log go on."""
    require_podbridge()
    node = session.node(HOST)
    build = counting(session, node, 100, 0.1)
    for name in ("kubectl", "oc", "podbridge", "podbridge-agent"):
        # `install` and package managers put a new file in place of the old one, too.
        new = settings.SHIM / f"{name}.new"
        shutil.copy(settings.SHIM / name, new)
        new.rename(settings.SHIM / name)
    build.wait(60)
    assert build.result == "SUCCESS", f"the result is {build.result} ({build.detail})"
    expect_numbers(build, 100)
    build.joblog().expect_once(f"{HOST} | counted")


def abort(session):
    """Job aborted by Zuul (SIGKILL for its playbook): within seconds its task has ended in the pod."""
    require_podbridge()
    node = session.node(HOST)
    build = counting(session, node, 6000, 0.1)
    build.stop("a new patch set")
    build.wait(30)
    assert build.result == "ABORTED", f"the result is {build.result}"
    find = ("sh", "-c", "ps -e -o args= | grep -F 'number $i' | grep -vF grep || :")
    kube.wait_for("the end of the task in the pod", lambda: not kube.exec_in_pod(*node[1:], *find).strip(), 10)
