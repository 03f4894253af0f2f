"""Setup of namespaces and pods with an administrator's rights; the tested code has only the rights of a node's account.

A node is made as Zuul's and nodepool's kubernetes drivers make it: a namespace, a service account `zuul-worker`, the
Role `zuul-restricted` and a pod. The rule for pods/log is left out of the Role, because not every driver grants it.
"""

import base64
import json
import os
import subprocess
import time
import uuid
from dataclasses import dataclass

from tier import settings

VERBS = ["create", "delete", "get", "list", "patch", "update", "watch"]
RULES = [
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]},
    {"apiGroups": [""], "resources": ["pods/exec"], "verbs": VERBS},
    {"apiGroups": [""], "resources": ["pods/portforward"], "verbs": VERBS},
]
USER = "zuul-worker"
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
    """Namespace for nodes, with the credentials that Zuul hands to the executor."""

    name: str
    token: str
    server: str
    ca: str
    user: str
    cluster: Cluster


def cluster_config(cluster):
    """Returns the cluster's entry in its kubeconfig."""
    view = json.loads(kubectl("config", "view", "--raw", "--minify", "-o", "json", cluster=cluster))
    return view["clusters"][0]["cluster"]


def make_namespace(label, cluster=FIRST, name=None, user=USER):
    """Makes a namespace with the service account `user`, and its Role; the name is random unless `name` is given."""
    name = name or f"zuul-{label}-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", name, cluster=cluster)
    if cluster is FIRST:
        namespaces.append(name)
    kubectl("create", "serviceaccount", user, namespace=name, cluster=cluster)
    role = {"kind": "Role", "apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "zuul-restricted"}}
    apply({**role, "rules": RULES}, name, cluster)
    binding = {
        "kind": "RoleBinding",
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "metadata": {"name": "zuul-role"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "zuul-restricted"},
        "subjects": [{"kind": "ServiceAccount", "name": user, "namespace": name}],
    }
    apply(binding, name, cluster)
    token = kubectl("create", "token", user, "--duration=4h", namespace=name, cluster=cluster).decode().strip()
    config = cluster_config(cluster)
    ca = config.get("certificate-authority-data")
    if not ca:
        with open(config["certificate-authority"], "rb") as file:
            ca = base64.b64encode(file.read()).decode()
    return Namespace(name, token, config["server"], ca, user, cluster)


def container(name, image="debian"):
    return {"name": name, "image": IMAGES[image], "imagePullPolicy": "IfNotPresent", "command": IDLE_COMMAND}


def start_pod(namespace, name, containers=None, **spec):
    apply(pod(name, containers, **spec), namespace.name, namespace.cluster)


def pod(name, containers=None, **spec):
    """Returns the manifest of a pod.

    The drivers write `restartPolicy: Never` beside the spec instead of into it, so the default `Always` applies: a dead
    container starts again, empty.
    """
    body = {
        "containers": containers or [container("main")],
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 1,
        **spec,
    }
    metadata = {"name": name, "labels": {"app": "podbridge-test"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": body}


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
