"""Scenario that runs examples/base-job as a tenant's base job, under a job that was written for machines."""

from tier import kube, settings
from tier.build import playbook
from tier.session import require_podbridge

EXAMPLE = settings.ROOT / "examples" / "base-job"
BASE = "opendev/base-jobs"


def base_job(session):
    """Base job of examples/base-job: it adapts to pods, and `command: tox -e pep8` on all hosts streams and passes."""
    require_podbridge()
    nodes = [session.node("one"), session.node("two")]
    for _name, namespace, pod in nodes:
        kube.exec_in_pod(
            namespace, pod, "sh", "-c", "printf '%s\\n' '#!/bin/sh' 'echo tox \"$@\" in $PWD' >/usr/local/bin/tox"
        )
        kube.exec_in_pod(namespace, pod, "chmod", "755", "/usr/local/bin/tox")
    build = session.build(
        nodes,
        pre=[playbook("playbooks/base/pre.yaml", BASE, trusted=True)],
        run=[playbook("playbooks/pep8.yaml", BASE, trusted=True), playbook("playbooks/report.yaml", "org/project")],
        post=[playbook("playbooks/base/post.yaml", BASE, trusted=True)],
        projects={"org/project": settings.PROJECT, BASE: EXAMPLE},
        repositories=["review.example.com/org/project"],
    )
    build.play()
    assert build.result == "SUCCESS", f"the result is {build.result} ({build.detail})"
    log = build.joblog()
    for name, namespace, pod in nodes:
        log.expect_match(rf"^{name} \| tox -e pep8 in /\S*/src/review.example.com/org/project$")
        home = kube.exec_in_pod(namespace, pod, "sh", "-c", "echo ~").strip()
        checkout = f"{home}/src/review.example.com/org/project"
        assert kube.exec_in_pod(namespace, pod, "git", "-C", checkout, "log", "--format=%s").strip() == "one"
        assert not kube.exec_in_pod(namespace, pod, "sh", "-c", "ls ~/.ssh 2>/dev/null || :").strip(), (
            "ssh keys in a pod"
        )
    log.expect_match("^PRE-RUN START: .*base/pre.yaml", "^POST-RUN END RESULT_NORMAL: .*base/post.yaml")
    log.refuse("add-build-sshkey", "Log Stream did not terminate")
    for name, _place, _pod in nodes:
        report = f"{build.jobdir.log_root}/{name}/report.txt"
        with open(report) as file:
            assert file.read().startswith("report of tox"), report
