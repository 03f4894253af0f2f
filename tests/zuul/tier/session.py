"""Session of one scenario: it makes the executor, the nodes and the builds, and removes them at the end."""

import logging
import os
import stat

from tier import kube, leftovers, settings
from tier.build import Build, playbook
from tier.executor import Executor


class Session:
    """Executor, nodes and builds of one scenario; `close` ends them."""

    def __init__(self, name):
        self.name = name.replace("_", "-")
        self.executor = Executor()
        self.builds = []

    def node(self, name="node", pod=None, wait=True, namespace=None, **pod_options):
        """Makes a pod and returns it as a node for `Build`: (name, namespace, pod).

        Without `namespace` the node gets a new namespace; `wait` waits until the pod is ready.
        """
        namespace = namespace or kube.make_namespace(self.name)
        pod = pod or f"{name}-{self.name}"
        kube.start_pod(namespace, pod, **pod_options)
        if wait:
            kube.wait_pod(namespace, pod)
        return (name, namespace, pod)

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
