"""This file owns one scenario's world: the executor, the nodes and builds made for it, and their end."""

import logging

from tier import kube, leftovers, settings
from tier.build import Build, playbook
from tier.executor import Executor


class Session:
    """Made for one scenario, closed after it."""

    def __init__(self, name):
        self.name = name.replace("_", "-")
        self.executor = Executor()
        self.builds = []

    def node(self, name="node", pod=None, wait=True, place=None, **pod_options):
        """A node with a pod of its own in a namespace of its own, unless `place` is another: what Build takes."""
        place = place or kube.make_place(self.name)
        pod = pod or f"{name}-{self.name}"
        kube.start_pod(place, pod, **pod_options)
        if wait:
            kube.wait_pod(place, pod)
        return (name, place, pod)

    def build(self, nodes, *playbooks, **options):
        """A build that is prepared: its port-forwards run."""
        run = [playbook(f"playbooks/{name}.yaml", "org/project") for name in playbooks]
        options.setdefault("run", run)
        build = Build(self.executor, nodes, **options)
        self.builds.append(build)
        return build.prepare()

    def run(self, nodes, *playbooks, expected="SUCCESS", **options):
        build = self.build(nodes, *playbooks, **options)
        build.play()
        assert build.result == expected, f"the result is {build.result} ({build.detail}), expected {expected}"
        leftovers.expect_no_warnings(build)
        return build

    def end(self, build):
        """Before the scenario's end."""
        build.close()
        self.builds.remove(build)

    @staticmethod
    def start(build):
        """Its playbooks run in the background."""
        build.begin()
        return build

    def close(self, failed):
        for build in self.builds:
            if failed:
                self.show(build)
            build.close(remove=not settings.KEEP)
        if not failed:
            leftovers.expect_none()

    @staticmethod
    def show(build):
        logging.getLogger("tier").error("the live log of the build:\n%s", build.joblog().shortened())


def expect_no_console_files(place, pod, container=None):
    """Zuul deletes each log that it has read to its end; those of asynchronous tasks (number 0) it never reads."""
    left = kube.in_pod(place, pod, "sh", "-c", "ls /tmp | grep ^console- || :", container=container)
    left = [name for name in left.split() if name != "console-None.log" and "-0-" not in name]
    assert not left, f"console logs are left in {pod}: {left}"


def only_podbridge():
    assert settings.podbridge(), "the stock kubectl cannot do this: run it without PEER=stock"
