"""Session of one scenario: it makes the executor, the nodes and the builds, and removes them at the end."""

import logging
import os
import stat
import uuid

from tier import kube, leftovers, settings
from tier.build import Build, playbook
from tier.drivers import launcher, nodepool
from tier.executor import Executor

# The code that makes a node.
NODEPOOL, LAUNCHER = "nodepool", "launcher"


class Session:
    """Executor, nodes and builds of one scenario; `close` ends them."""

    def __init__(self, name):
        self.name = name.replace("_", "-")
        self.executor = Executor()
        self.builds = []
        self.managers = {}

    def node(self, name="node", pod=None, driver=NODEPOOL, namespace=None, wait=True, **spec):
        """Makes a pod and returns it as a node for `Build`: (name, namespace, pod).

        The pod is that of a label by image, or of a label by `spec` if any field is given. The driver makes its
        namespace, role, account and token, too. With `namespace` the pod is one more in that namespace. Without `wait`
        the pod need not run yet; no driver hands over such a pod.
        """
        if driver is LAUNCHER:
            spec = spec or {"containers": [{**kube.container("main"), "command": ["sleep", "3600"]}]}
            made = launcher.Launcher(settings.KUBECONFIG, kube.pod_spec(**spec)).launch()
            namespace = kube.Namespace(made)
            return (name, namespace, namespace.access["pod"])
        pod = pod or f"{name}-{self.name}"
        if namespace or not wait:
            namespace = namespace or self.namespace(pod)
            kube.start_pod(namespace, pod, **spec)
            if wait:
                kube.wait_pod(namespace, pod)
            return (name, namespace, pod)
        label = {"name": pod, "type": "pod"}
        label |= {"spec": kube.pod_spec(**spec)} if spec else {"image": kube.IMAGES["debian"]}
        return (name, kube.Namespace(self.pool(label).launch()), pod)

    def namespace_node(self, name):
        """Makes the node of a label of the type `namespace`, for a job that makes its pods itself."""
        pool = self.pool({"name": name, "type": "namespace"})
        namespace = kube.Namespace(pool.launch())
        self.managers[namespace.name] = pool.manager
        return (name, namespace, None)

    def remove(self, node):
        """Removes the namespace of a label of the type `namespace` with nodepool's code, and waits until it is gone."""
        name = node[1].name
        self.managers.pop(name).cleanupNode(name)
        kube.wait_for(
            "the end of the namespace",
            lambda: not kube.kubectl("get", "namespace", name, "--ignore-not-found", "-o", "name"),
            60,
        )

    def namespace(self, label="node"):
        """Returns the namespace of a node of nodepool whose pod the scenario makes."""
        return kube.Namespace(self.pool({"name": label, "type": "pod", "image": "none"}).make_namespace())

    def pool(self, label):
        return nodepool.Pool(settings.KUBECONFIG, f"zuul-{self.name}-{uuid.uuid4().hex[:8]}", label)

    def project_nodes(self, *names):
        """Makes the nodes of nodepool's driver `openshiftpods`: pods in one namespace that an operator has made, with
        the token of nodepool.
        """
        project = f"zuul-{self.name}-{uuid.uuid4().hex[:8]}"
        kubeconfig, context = kube.make_project(project)
        nodes = []
        for name in names:
            label = {"name": f"{name}-{self.name}", "image": kube.IMAGES["debian"]}
            made = nodepool.Pool(kubeconfig, project, label, "openshiftpods", context).launch()
            nodes.append((name, kube.Namespace(made), made["interface_ip"]))
        return nodes

    def build(self, nodes, *playbooks, **options):
        """Returns a prepared build of these playbooks; its port-forwards run."""
        run = [playbook(f"playbooks/{name}.yaml", "org/project") for name in playbooks]
        options.setdefault("run", run)
        build = Build(self.executor, nodes, **options)
        self.builds.append(build)
        return build.prepare()

    def run(self, nodes, *playbooks, expected="SUCCESS", **options):
        """Runs a build to its end, asserts its result, and returns it."""
        build = self.build(nodes, *playbooks, **options)
        build.play()
        assert build.result == expected, f"the result is {build.result} ({build.detail}), expected {expected}"
        leftovers.expect_no_warnings(build)
        return build

    def end(self, build):
        """Closes a build before the scenario ends."""
        build.close()
        self.builds.remove(build)

    @staticmethod
    def start(build):
        """Starts the playbooks of a build in the background and returns the build."""
        build.begin()
        return build

    def close(self, failed):
        """Closes all builds. After a failure it prints their logs; otherwise it asserts that nothing is left."""
        for build in self.builds:
            if failed:
                self.show(build)
            build.close(remove=not settings.KEEP)
        if not failed:
            leftovers.expect_none()

    @staticmethod
    def show(build):
        logging.getLogger("tier").error("the live log of the build:\n%s", build.joblog().summary())


def slot_sockets(build):
    """Returns the paths of the sockets that clients of a build's pods use.

    Beside each are the sockets of the pod's single bridges, whose names begin with a dot, and a dangling link that
    records Zuul's loop (ADR 20).
    """
    entries = os.scandir(build.jobdir.kube_dir)
    sockets = (entry for entry in entries if stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode))
    return [entry.path for entry in sockets if not entry.name.startswith(".")]


def expect_no_console_files(namespace, pod, container=None):
    """Asserts that no console log is left in the pod.

    Zuul deletes each log that it has read to its end. It never reads those of asynchronous tasks (number 0).
    """
    left = kube.exec_in_pod(namespace, pod, "sh", "-c", "ls /tmp | grep ^console- || :", container=container)
    left = [name for name in left.split() if name != "console-None.log" and "-0-" not in name]
    assert not left, f"console logs are left in {pod}: {left}"


def require_podbridge():
    """Fails for the stock peer, which lacks what the scenario tests."""
    assert settings.is_podbridge(), "the stock kubectl cannot do this; run the scenario without PEER=stock"
