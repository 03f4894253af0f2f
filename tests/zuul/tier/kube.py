"""Access to the cluster with an administrator's rights, for what a scenario sets up and looks at. The tested code has
only the rights of a node's account, which nodepool's or Zuul's own code made (`drivers`).
"""

import json
import os
import subprocess
import time
from dataclasses import dataclass

from tier import settings

IDLE_COMMAND = ["/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"]
IMAGES = {name: os.environ.get(f"TIER_{name.upper()}_IMAGE") for name in ("debian", "busybox")}

# kubectl writes its cache into HOME. The executor's home must stay empty, so the administrator has another one.
ADMIN = {"PATH": os.environ["PATH"], "HOME": str(settings.WORK / "admin")}


@dataclass(frozen=True)
class Cluster:
    """Access to a cluster. `netns` is the path of its network namespace; empty means the namespace of this process."""

    kubectl: str
    kubeconfig: str
    netns: str = ""

    def command(self):
        enter = ["nsenter", f"--net={self.netns}"] if self.netns else []
        return [*enter, self.kubectl, "--kubeconfig", self.kubeconfig]


FIRST = Cluster(settings.KUBECTL, settings.KUBECONFIG)
namespaces = []


def kubectl(*arguments, namespace=None, cluster=FIRST, data=None, check=True, timeout=120):
    """Runs kubectl and returns its stdout; raises AssertionError if it fails and `check` is set."""
    command = cluster.command()
    if namespace:
        command += ["-n", namespace]
    done = subprocess.run(command + list(arguments), input=data, capture_output=True, timeout=timeout, env=ADMIN)
    if check and done.returncode:
        raise AssertionError(f"kubectl {' '.join(arguments)}: {done.stderr.decode()}")
    return done.stdout


def apply(document, namespace=None, cluster=FIRST):
    kubectl("apply", "-f", "-", namespace=namespace, cluster=cluster, data=json.dumps(document).encode())


@dataclass
class Namespace:
    """Namespace of a node. `node` is what a driver handed to Zuul about the node."""

    node: dict
    cluster: Cluster = FIRST

    @property
    def access(self):
        """Access to the pod, for Zuul's kubeconfig: nodepool and Zuul's launcher have different fields for it."""
        return self.node["connection_port"] or self.node["kubernetes_connection"]

    @property
    def name(self):
        return self.access["namespace"]

    @property
    def user(self):
        return self.access["user"]

    @property
    def server(self):
        return self.access["host"]

    def node_of(self, pod):
        """Returns what the driver would have handed over about this pod of the same namespace."""
        if self.access.get("pod") == pod:
            return self.node
        return {**self.node, "interface_ip": pod, "connection_port": {**self.access, "pod": pod}}

    def as_user(self, user):
        """Returns the same access under another name in Zuul's kubeconfig, where no two users may have one name."""
        return Namespace({**self.node, "connection_port": {**self.access, "user": user}}, self.cluster)


def server(cluster):
    """Returns the URL of the API server."""
    view = kubectl("config", "view", "--minify", "-o", "jsonpath={.clusters[0].cluster.server}", cluster=cluster)
    return view.decode()


def write_kubeconfig(name, cluster=FIRST, server=None, token=None):
    """Writes an administrator's kubeconfig of one cluster with another server or user, and returns its path."""
    config = json.loads(kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json", cluster=cluster))
    if server:
        config["clusters"][0]["cluster"]["server"] = server
    if token:
        config["users"][0]["user"] = {"token": token}
    path = settings.WORK / f"{name}.kubeconfig"
    path.write_text(json.dumps(config))
    return str(path), config["current-context"]


def make_project(name):
    """Makes a namespace where an account of nodepool may make pods; returns nodepool's kubeconfig and its context."""
    kubectl("create", "namespace", name)
    namespaces.append(name)
    kubectl("create", "serviceaccount", "nodepool", namespace=name)
    # The cluster role `edit` is empty, because this cluster has no controller that fills it.
    role = ("--verb=get,list,create,delete", "--resource=pods,pods/exec,pods/portforward")
    kubectl("create", "role", "nodepool", *role, namespace=name)
    kubectl("create", "rolebinding", "nodepool", "--role=nodepool", f"--serviceaccount={name}:nodepool", namespace=name)
    token = kubectl("create", "token", "nodepool", "--duration=4h", namespace=name).decode().strip()
    return write_kubeconfig(name, token=token)


def container(name, image="debian"):
    return {"name": name, "image": IMAGES[image], "imagePullPolicy": "IfNotPresent", "command": IDLE_COMMAND}


def start_pod(namespace, name, containers=None, **spec):
    apply(pod(name, containers, **spec), namespace.name, namespace.cluster)


def pod(name, containers=None, **spec):
    """Returns the manifest of a pod."""
    metadata = {"name": name, "labels": {"app": "podbridge-test"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": pod_spec(containers, **spec)}


def pod_spec(containers=None, **spec):
    return {
        "containers": containers or [container("main")],
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 1,
        **spec,
    }


def wait_pod(namespace, name):
    ready = ["wait", "--for=condition=Ready", f"pod/{name}", "--timeout=90s"]
    kubectl(*ready, namespace=namespace.name, cluster=namespace.cluster)


def delete_pod(namespace, name):
    """Deletes a pod at once, as an eviction does."""
    delete = ["delete", "pod", name, "--force", "--grace-period=0", "--wait=false"]
    kubectl(*delete, namespace=namespace.name, cluster=namespace.cluster)


def exec_in_pod(namespace, name, *argv, container=None, check=True):
    """Runs a command with `kubectl exec` and returns its stdout as text."""
    options = ["-c", container] if container else []
    command = ["exec", name, *options, "--", *argv]
    return kubectl(*command, namespace=namespace.name, cluster=namespace.cluster, check=check).decode()


def remove_all():
    """Deletes the namespaces that this run made in the first cluster."""
    if namespaces:
        kubectl("delete", "namespace", *namespaces, "--ignore-not-found", "--wait=false", check=False)


def wait_for(what, condition, seconds=30.0):
    """Polls until `condition()` is true and returns its value; raises AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {what} ({answer!r})")
        time.sleep(0.05)
