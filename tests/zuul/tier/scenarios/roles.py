"""This file owns zuul-jobs' roles that move repositories and output: what they call, with pods for nodes."""

import json
import os

from tier import kube, settings
from tier.session import only_podbridge

REPOSITORIES = [f"review.example.com/org/{name}" for name in ("one", "two", "three")]
# An oc of the cluster's own, which the tier does not have: it notes what it was asked for.
OC = """#!/bin/sh
exec python3 -c 'import json, sys; print("OC", json.dumps(sys.argv[1:]))' "$@"
"""


def roles(session):
    """What zuul-jobs' roles for workspaces and output call, with rsync in the image: Git, synchronize, oc."""
    play(session)


def roles_without_rsync(session):
    """The same where the image has no rsync, with our action in the place of the short name."""
    own = settings.ROOT / "ansible" / "plugins" / "action"
    # The setting of the environment hides the one of Zuul's ansible.cfg, whose actions are needed as well.
    zuul = session.executor.ansible_manager.getAnsiblePluginDir("11")
    os.environ["ANSIBLE_ACTION_PLUGINS"] = f"{own}:{zuul}/action"
    try:
        play(session, without_rsync=True)
    finally:
        del os.environ["ANSIBLE_ACTION_PLUGINS"]


def play(session, without_rsync=False):
    only_podbridge()
    oc = settings.STOCK / "oc"
    oc.write_text(OC)
    oc.chmod(0o755)
    # One name for both pods: each gets its own.
    nodes = [session.node("left", "python-container"), session.node("right", "python-container")]
    for _name, place, pod in nodes:
        cached = f"/opt/git/{REPOSITORIES[0]}"
        kube.in_pod(place, pod, "git", "init", "--quiet", cached)
        author = ("-c", "user.name=x", "-c", "user.email=x@example.com")
        kube.in_pod(place, pod, "git", "-C", cached, *author, "commit", "--quiet", "--allow-empty", "-m", "cached")
        if without_rsync:
            kube.in_pod(place, pod, "rm", "/usr/bin/rsync")
    variables = {"repositories": REPOSITORIES}
    build = session.run(nodes, "roles", repositories=REPOSITORIES, variables=variables)
    log = build.joblog()
    for name, place, pod in nodes:
        home = kube.in_pod(place, pod, "sh", "-c", "echo ~").strip()
        for repository in REPOSITORIES:
            for where in (home, "/"):
                git = ("git", "-C", f"{where}/src/{repository}", "-c", "safe.directory=*")
                subjects = kube.in_pod(place, pod, *git, "log", "--format=%s").split()
                assert subjects == ["again", "one"], f"{name} {where} has {subjects}"
                assert not kube.in_pod(place, pod, *git, "status", "--porcelain"), f"{name} {where} is not clean"
        assert kube.in_pod(place, pod, "ls", "-d", "/tmp/src").strip() == "/tmp/src"
        with open(f"{build.jobdir.log_root}/{name}/sub/job.txt") as file:
            assert file.read() == f"log of {name}\n"
        assert os.path.getsize(f"{build.jobdir.work_root}/artifacts/{name}.bin") == 3_000_000
        resource = ["--context", f"{place.namespace}:{place.user}/", "--namespace", place.namespace]
        asked = [json.loads(text[3:]) for text in log.of(f"{name} -> localhost") if text.startswith("OC ")]
        assert len(asked) == 1, f"oc was asked for {asked}"
        said = [*asked[0][:1], asked[0][1][: len(resource[1])], *asked[0][2:4]]
        assert said == resource, f"oc was asked for {asked[0]}"
        source, destination = f"{pod}:{home}/zuul-output/logs/", f"{build.jobdir.log_root}/{name}/"
        assert asked[0][4:] == ["rsync", "-q", "--progress=false", source, destination], asked[0]
