"""Scenarios with the commands of zuul-jobs' roles that move repositories and output, on pods."""

import json
import os

from tier import kube, settings
from tier.session import require_podbridge

REPOSITORIES = [f"review.example.com/org/{name}" for name in ("one", "two", "three")]
# Stand-in for a stock `oc`, which the tier does not have: it prints its arguments.
OC = """#!/bin/sh
exec python3 -c 'import json, sys; print("OC", json.dumps(sys.argv[1:]))' "$@"
"""


def roles(session):
    """Commands of zuul-jobs' roles for workspaces and output, with rsync in the image: Git, synchronize, oc."""
    play(session)


def roles_without_rsync(session):
    """Same commands without rsync in the image; our action has the short name `synchronize`."""
    own = settings.ROOT / "ansible" / "plugins" / "action"
    # The environment variable hides the path in Zuul's ansible.cfg, so it has to name Zuul's actions too.
    zuul = session.executor.ansible_manager.getAnsiblePluginDir("11")
    os.environ["ANSIBLE_ACTION_PLUGINS"] = f"{own}:{zuul}/action"
    try:
        play(session, without_rsync=True)
    finally:
        del os.environ["ANSIBLE_ACTION_PLUGINS"]


def play(session, without_rsync=False):
    require_podbridge()
    oc = settings.STOCK / "oc"
    oc.write_text(OC)
    oc.chmod(0o755)
    # Both pods have the same name; each has to get its own files.
    nodes = [session.node("left", "python-container"), session.node("right", "python-container")]
    for _name, namespace, pod in nodes:
        cached = f"/opt/git/{REPOSITORIES[0]}"
        kube.exec_in_pod(namespace, pod, "git", "init", "--quiet", cached)
        author = ("-c", "user.name=x", "-c", "user.email=x@example.com")
        kube.exec_in_pod(
            namespace, pod, "git", "-C", cached, *author, "commit", "--quiet", "--allow-empty", "-m", "cached"
        )
        if without_rsync:
            kube.exec_in_pod(namespace, pod, "rm", "/usr/bin/rsync")
    variables = {"repositories": REPOSITORIES}
    build = session.run(nodes, "roles", repositories=REPOSITORIES, variables=variables)
    log = build.joblog()
    for name, namespace, pod in nodes:
        home = kube.exec_in_pod(namespace, pod, "sh", "-c", "echo ~").strip()
        for repository in REPOSITORIES:
            for parent in (home, "/"):
                git = ("git", "-C", f"{parent}/src/{repository}", "-c", "safe.directory=*")
                subjects = kube.exec_in_pod(namespace, pod, *git, "log", "--format=%s").split()
                assert subjects == ["again", "one"], f"{name} {parent} has {subjects}"
                assert not kube.exec_in_pod(namespace, pod, *git, "status", "--porcelain"), (
                    f"{name} {parent} is not clean"
                )
        assert kube.exec_in_pod(namespace, pod, "ls", "-d", "/tmp/src").strip() == "/tmp/src"
        with open(f"{build.jobdir.log_root}/{name}/sub/job.txt") as file:
            assert file.read() == f"log of {name}\n"
        assert os.path.getsize(f"{build.jobdir.work_root}/artifacts/{name}.bin") == 3_000_000
        resource = ["--context", f"{namespace.name}:{namespace.user}/", "--namespace", namespace.name]
        calls = [json.loads(text[3:]) for text in log.lines_of(f"{name} -> localhost") if text.startswith("OC ")]
        assert len(calls) == 1, f"oc was called with {calls}"
        options = [*calls[0][:1], calls[0][1][: len(resource[1])], *calls[0][2:4]]
        assert options == resource, f"oc was called with {calls[0]}"
        source, destination = f"{pod}:{home}/zuul-output/logs/", f"{build.jobdir.log_root}/{name}/"
        assert calls[0][4:] == ["rsync", "-q", "--progress=false", source, destination], calls[0]
