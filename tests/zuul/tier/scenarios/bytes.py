"""Scenarios that send binary data through the shim's `kubectl exec` from the sandbox: Git pushes and a large stream."""

from tier import kube, settings


def ext_git(session):
    """git push and fetch through ext::kubectl exec, in the forms of zuul-jobs and of older scripts."""
    both = [kube.container("main"), kube.container("sidecar")]
    node = session.node("node", "zuultest", containers=both)
    for container in ("main", "sidecar"):
        kube.exec_in_pod(*node[1:], "git", "init", "--quiet", "--bare", "/tmp/destination.git", container=container)
    build = session.run([node], "ext_git", variables={"old_form": settings.is_podbridge()})
    lines = build.joblog().lines_of("node -> localhost")
    assert "all other pushes passed" in lines, "not all kinds of pushes were made"
    heads = [text for text in lines if text.startswith("head ")]
    assert heads, "the playbook did not print its head"
    for container in ("main", "sidecar") if settings.is_podbridge() else ("main",):
        git = ("git", "-C", "/tmp/destination.git")
        head = kube.exec_in_pod(*node[1:], *git, "rev-parse", "refs/heads/master", container=container).strip()
        assert f"head {head}" in heads, f"{container} has {head}, expected {heads}"
        kube.exec_in_pod(*node[1:], *git, "fsck", "--full", container=container)


def exec_bytes(session):
    """1 GiB in both directions at once through `kubectl exec -i POD -- cat`, compared by digest."""
    node = session.node()
    mebibytes = 1024
    log = session.run([node], "exec_bytes", variables={"mebibytes": mebibytes}).joblog()
    log.expect_match(
        rf"^node -> localhost \| {mebibytes} MiB in both directions, the same: ", r"^node -> localhost \| exit code 7, "
    )
