"""Scenario with nodes that could be confused: pods of one name, pods of one name and namespace on two clusters, and
containers of one pod."""

from tier import kube, settings
from tier.drivers.nodepool import Pool
from tier.relay import relay
from tier.session import expect_no_console_files, slot_sockets

POD = "python-container"


def same_name_pods(session):
    """Three nodes with one pod name, on two clusters, one with two containers: each line under the right host."""
    both = [kube.container("main"), kube.container("sidecar")]
    nodes = [
        session.node("left", POD, containers=[kube.container("main")]),
        session.node("right", POD, containers=both),
    ]
    other = kube.Cluster(*settings.SECOND_CLUSTER)
    with relay(kube.server(other), other.netns) as server:
        nodes.append(make_far_node(nodes[0][1].name, other, server))
        containers = [(nodes[0], "main"), (nodes[1], "main"), (nodes[1], "sidecar"), (nodes[2], "main")]
        for (name, namespace, pod), container in containers:
            kube.exec_in_pod(namespace, pod, "sh", "-c", f"echo {name} {container} >/tmp/who", container=container)
        run_build(session, nodes)
    expect_no_console_files(*nodes[2][1:])
    expect_no_console_files(*nodes[1][1:], container="sidecar")
    if settings.is_podbridge():
        # The stock console daemon sees only the files of its own container.
        log = session.run(nodes[1:2], "containers").joblog()
        log.expect_once("right | I am right main", "right | I am right sidecar")
        for container in ("main", "sidecar"):
            expect_no_console_files(*nodes[1][1:], container=container)


def make_far_node(name, cluster, server):
    """Makes a node in a namespace of this name on the other cluster, which answers at `server`.

    Its account has another name in Zuul's kubeconfig, which has one user for each namespace and account.
    """
    pool, _, number = name.rpartition("-")
    kubeconfig, _context = kube.write_kubeconfig("far", cluster, server)
    label = {"name": POD, "type": "pod", "spec": kube.pod_spec()}
    namespace = kube.Namespace(Pool(kubeconfig, pool, label).launch(number), cluster)
    return ("far", namespace.as_user("zuul-worker-far"), POD)


def run_build(session, nodes):
    build = session.run(nodes, "same_name_pods", host_variables={"right": {"ansible_kubectl_container": "sidecar"}})
    log = build.joblog()
    for host, identity in (("left", "left main"), ("right", "right sidecar"), ("far", "far main")):
        assert log.lines_of(host).count(f"I am {identity}") == 1, f"{host} printed {log.lines_of(host)}"
        numbers = [text for text in log.lines_of(host) if text.startswith(f"{identity} number")]
        assert numbers == [f"{identity} number {n}" for n in range(1, 501)], f"{len(numbers)} numbers of {host}"
    if settings.is_podbridge():
        sockets = slot_sockets(build)
        assert len(sockets) == len(nodes), f"{len(sockets)} sockets for {len(nodes)} nodes"
    # The build has to end before the relay to the other cluster does.
    session.end(build)
