"""This file owns builds whose nodes could be confused: pods of one name, of one name and namespace on two clusters,
containers of one pod."""

import os
import stat
from dataclasses import replace

from tier import kube, settings
from tier.relay import relay
from tier.session import expect_no_console_files

POD = "python-container"


def same_name_pods(session):
    """Three nodes, one pod name, two clusters, a second container: each line under the right host."""
    both = [kube.container("main"), kube.container("sidecar")]
    nodes = [session.node("left", POD), session.node("right", POD, containers=both)]
    # Only its server is not the same as of `left`. Zuul names a user by its account, in one kubeconfig for all.
    other = kube.Cluster(*settings.SECOND_CLUSTER)
    there = kube.make_place(session.name, other, nodes[0][1].namespace, f"{kube.USER}-there")
    nodes.append(session.node("far", POD, place=there))
    who = [(nodes[0], "main"), (nodes[1], "main"), (nodes[1], "sidecar"), (nodes[2], "main")]
    for (name, place, pod), container in who:
        kube.in_pod(place, pod, "sh", "-c", f"echo {name} {container} >/tmp/who", container=container)
    with relay(there.server, other.netns) as server:
        run_build(session, [*nodes[:2], ("far", replace(there, server=server), POD)])
    expect_no_console_files(*nodes[2][1:])
    expect_no_console_files(*nodes[1][1:], container="sidecar")
    if settings.podbridge():
        # A stock console daemon sees the files of its own container only.
        log = session.run(nodes[1:2], "containers").joblog()
        log.expect_once("right | I am right main", "right | I am right sidecar")
        for container in ("main", "sidecar"):
            expect_no_console_files(*nodes[1][1:], container=container)


def run_build(session, nodes):
    build = session.run(nodes, "same_name_pods", host_variables={"right": {"ansible_kubectl_container": "sidecar"}})
    log = build.joblog()
    for host, who in (("left", "left main"), ("right", "right sidecar"), ("far", "far main")):
        assert log.of(host).count(f"I am {who}") == 1, f"{host} says {log.of(host)}"
        numbers = [text for text in log.of(host) if text.startswith(f"{who} number")]
        assert numbers == [f"{who} number {n}" for n in range(1, 501)], f"{len(numbers)} numbers of {host}"
    if settings.podbridge():
        entries = [entry for entry in os.scandir(build.jobdir.kube_dir) if stat.S_ISSOCK(entry.stat().st_mode)]
        assert len(entries) == len(nodes), f"{len(entries)} sockets for {len(nodes)} nodes"
    # Before the other cluster is gone.
    session.end(build)
