"""Scenario with all of Zuul and nodepool as services: from `git push` to the end of the builds, nothing replaced."""

import json
import sys
import time
import uuid

import yaml

from tier import kube, settings
from tier.scenarios.sandbox import overlay
from tier.whole.configuration import Configuration
from tier.whole.live_logs import LiveLogs
from tier.whole.services import Services

JOBS = {"two-nodes", "lost-pod", "own-namespace", "project-pod"}
BUILDS = "SELECT uuid, job_name, result, final, start_time, end_time FROM zuul_build WHERE end_time IS NOT NULL"


def whole_path(session):
    """Scheduler, nodepool and executor: a push, pods of all kinds of labels, live logs, a lost pod that is retried."""
    prefix = f"zuul-whole-{uuid.uuid4().hex[:8]}"
    configuration = Configuration(settings.WORK / "whole", prefix)
    started = time.monotonic()
    try:
        with overlay(settings.ANSIBLE) as layer, Services(configuration) as services:
            # Zuul looks for the oldest Ansible that it manages, too, although no job uses it.
            (layer / "9").symlink_to("11")
            start(configuration, services)
            ready = time.monotonic()
            logs = LiveLogs(configuration.builds, configuration.finger_port)
            try:
                builds = run(configuration, services, logs)
            finally:
                logs.stop()
            ended = time.monotonic()
            check(builds, logs)
            services.wait_for("the end of all nodes", lambda: not namespaces(prefix), 90)
    except Exception:
        show_logs(configuration)
        raise
    finally:
        kube.namespaces += namespaces(prefix)
    print(
        f"zuul {settings.PEER}: services in {ready - started:.0f} s, builds in {ended - ready:.0f} s", file=sys.stderr
    )
    for build in sorted(builds.values(), key=lambda build: build["job_name"]):
        seconds = (build["end_time"] - build["start_time"]).total_seconds()
        print(f"zuul {settings.PEER}: {build['job_name']} {build['result']} in {seconds:.0f} s", file=sys.stderr)
    left = list(configuration.builds.iterdir())
    assert not left, f"builds are left: {left}"


def start(configuration, services):
    """Starts all services."""
    project = f"{configuration.prefix}-project"
    kubeconfig, contexts = operator_kubeconfig(project)
    configuration.write_certificate()
    configuration.write_repositories()
    configuration.write_nodepool(contexts)
    services.start_zookeeper()
    services.start_postgres()
    configuration.write_zuul()
    services.start_zuul("zuul-scheduler")
    services.start_zuul("zuul-executor")
    services.start_nodepool(kubeconfig)
    # The git driver reports what changes after its first look; events from before the first layout are dropped.
    for line in ("refs for project project", "Config priming complete"):
        services.wait_for(line, lambda line=line: line in services.log("zuul-scheduler"))


def operator_kubeconfig(project):
    """Returns nodepool's kubeconfig, with one context for the cluster and one for the shared project."""
    path, context = kube.make_project(project)
    with open(path) as file:
        config = json.load(file)
    cluster_path, cluster_context = kube.write_kubeconfig("nodepool")
    with open(cluster_path) as file:
        cluster = json.load(file)
    config["contexts"][0]["name"] = config["contexts"][0]["context"]["user"] = config["users"][0]["name"] = "project"
    for section in ("users", "contexts"):
        config[section] += cluster[section]
    config["current-context"] = cluster_context
    path = settings.WORK / "nodepool.kubeconfig"
    path.write_text(json.dumps(config))
    return path, {"kubernetes": cluster_context, "openshiftpods": "project"}


def run(configuration, services, logs):
    """Pushes a change, deletes the pod of a build, and returns the builds when all jobs have ended."""
    configuration.commit("project", "pushed")
    if settings.is_podbridge():
        services.wait_for("the build whose pod goes away", lambda: counting(logs), 300)
        delete_pod(configuration, counting(logs)[0])

    def all_ended():
        columns = ("uuid", "job_name", "result", "final", "start_time", "end_time")
        builds = {row[0]: dict(zip(columns, row, strict=True)) for row in services.query(BUILDS)}
        return {build["job_name"] for build in builds.values() if build["final"]} == JOBS and builds

    # Zuul runs some of the jobs three times with the stock kubectl.
    return services.wait_for("the end of all jobs", all_ended, 300 if settings.is_podbridge() else 1200)


def counting(logs):
    """Returns the builds that count now, which only the job lost-pod does."""
    return [build for build in logs.running("TASK [Counting]") if "| number 5" in logs.text[build]]


def delete_pod(configuration, build):
    with open(configuration.builds / build / "kube" / "config") as file:
        (context,) = yaml.safe_load(file)["contexts"]
    pod = ("by-image", "--force", "--grace-period=0", "--wait=false")
    kube.kubectl("delete", "pod", *pod, namespace=context["context"]["namespace"])


def namespaces(prefix):
    """Returns the namespaces of nodepool's driver `kubernetes` that are not yet being deleted."""
    listed = json.loads(kube.kubectl("get", "namespaces", "-o", "json"))["items"]
    names = [each["metadata"]["name"] for each in listed if each["status"]["phase"] != "Terminating"]
    return [name for name in names if name.startswith(f"{prefix}-0")]


def check(builds, logs):
    """Asserts the results and the live logs. The stock kubectl fails in some of it, so its results are only printed."""
    by_job = {job: [build for build in builds.values() if build["job_name"] == job] for job in JOBS}
    if not settings.is_podbridge():
        return
    for job, attempts in by_job.items():
        results = [build["result"] for build in attempts if build["final"]]
        assert results == ["SUCCESS"], f"{job}: {attempts}"
        assert len(attempts) == (2 if job == "lost-pod" else 1), f"{job}: {attempts}"
    (build,) = by_job["two-nodes"]
    log = logs.of(build["uuid"])
    for host in ("by-image", "by-spec"):
        lines = log.lines_of(host)
        numbers = [text for text in lines if text.startswith("number ")]
        assert numbers == [f"number {number}" for number in range(1, 51)], f"{host}: {numbers}"
        # The subject of the pushed commit, and the content of the file in the synchronized tree.
        assert lines.count("pushed") == 2, f"{host}: {lines}"
        assert f"file of {host}" in log.lines_of(f"{host} -> localhost"), f"{host}: the fetched file is wrong"
        log.expect_once(f"{host} | after {host}")
    delays = sorted(logs.delays[build["uuid"]])
    middle = delays[len(delays) // 2]
    print(f"zuul {settings.PEER}: a line at the finger port after {middle * 1e3:.0f} ms (p50)", file=sys.stderr)
    assert middle < 2, f"the log is not live: half of its lines arrived after {middle:.1f} s"
    first, second = sorted(by_job["lost-pod"], key=lambda build: build["start_time"])
    assert not first["final"], "the lost pod was not retried"
    logs.of(first["uuid"]).expect_match(r"^node \| \[Zuul\] pod by-image lost: \S")
    logs.of(second["uuid"]).expect_once("node | attempt 2")
    logs.of(by_job["own-namespace"][0]["uuid"]).expect_match("the pod is own")
    logs.of(by_job["project-pod"][0]["uuid"]).expect_once("node | hello from node")


def show_logs(configuration):
    for path in sorted(configuration.directory.glob("*.log")):
        lines = path.read_text(errors="replace").splitlines()[-25:]
        print(f"the end of {path.name}:", *[line[:300] for line in lines], sep="\n", file=sys.stderr)
