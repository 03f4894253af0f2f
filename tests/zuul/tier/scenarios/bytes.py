"""This file owns bytes through the shim's `kubectl exec`, from the sandbox: Git's pack protocol and a large stream."""

from tier import kube, settings


def ext_git(session):
    """git push and fetch through ext::kubectl exec, as zuul-jobs does it and as older scripts do."""
    both = [kube.container("main"), kube.container("sidecar")]
    node = session.node("node", "zuultest", containers=both)
    for container in ("main", "sidecar"):
        kube.in_pod(*node[1:], "git", "init", "--quiet", "--bare", "/tmp/destination.git", container=container)
    build = session.run([node], "ext_git", variables={"old_form": settings.podbridge()})
    assert "by other ways too" in build.joblog().of("node -> localhost"), "not all kinds of pushes were made"
    heads = [build.joblog().of("node -> localhost")]
    wanted = [text for text in heads[0] if text.startswith("head ")]
    assert wanted, "the playbook did not say its head"
    for container in ("main", "sidecar") if settings.podbridge() else ("main",):
        git = ("git", "-C", "/tmp/destination.git")
        head = kube.in_pod(*node[1:], *git, "rev-parse", "refs/heads/master", container=container).strip()
        assert f"head {head}" in wanted, f"{container} has {head}, expected {wanted}"
        kube.in_pod(*node[1:], *git, "fsck", "--full", container=container)


def exec_bytes(session):
    """1 GiB in both directions at once through `kubectl exec -i POD -- cat`, byte for byte."""
    node = session.node()
    mebibytes = 1024
    log = session.run([node], "exec_bytes", variables={"mebibytes": mebibytes}).joblog()
    log.expect_match(
        rf"^node -> localhost \| {mebibytes} MiB in both directions, the same: ", r"^node -> localhost \| exit code 7, "
    )
