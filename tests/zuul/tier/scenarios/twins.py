"""This file owns builds whose nodes could be confused: pods of one name, containers of one pod."""

from tier import kube, settings
from tier.session import expect_no_console_files

POD = "python-container"


def twins(session):
    """Two nodes, one pod name, a second container: each line under the right host."""
    both = [kube.container("main"), kube.container("sidecar")]
    nodes = [session.node("left", POD), session.node("right", POD, containers=both)]
    for (name, place, pod), container in zip((*nodes, nodes[1]), ("main", "main", "sidecar"), strict=True):
        kube.in_pod(place, pod, "sh", "-c", f"echo {name} {container} >/tmp/who", container=container)
    log = session.run(nodes, "twins", host_variables={"right": {"ansible_kubectl_container": "sidecar"}}).joblog()
    for host, who in (("left", "left main"), ("right", "right sidecar")):
        assert log.of(host).count(f"I am {who}") == 1, f"{host} says {log.of(host)}"
        numbers = [text for text in log.of(host) if text.startswith(f"{who} number")]
        assert numbers == [f"{who} number {n}" for n in range(1, 501)], f"{len(numbers)} numbers of {host}"
    expect_no_console_files(*nodes[1][1:], container="sidecar")
    if settings.podbridge():
        # A stock console daemon sees the files of its own container only.
        log = session.run(nodes[1:], "containers").joblog()
        log.expect_once("right | I am right main", "right | I am right sidecar")
        for container in ("main", "sidecar"):
            expect_no_console_files(*nodes[1][1:], container=container)
