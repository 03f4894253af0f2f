"""This file owns the clusters as the tier's setup sees them, with an administrator's rights; what is tested has none.

A node is made as Zuul's kubernetes driver (and nodepool's) makes it: a namespace, a service account `zuul-worker`, the
Role `zuul-restricted`, here without the rule for pods/log that not every driver has, and a pod.
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
KEEPER = ["/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"]
IMAGES = {name: os.environ.get(f"TIER_{name.upper()}_IMAGE") for name in ("debian", "busybox")}

# Its cache is not to be looked for in the executor's home, nor anywhere but in the run's own directory.
ADMIN = {"PATH": os.environ["PATH"], "HOME": str(settings.WORK / "admin")}


@dataclass(frozen=True)
class Cluster:
    """How setup calls it: in its network namespace, if that is not ours."""

    kubectl: str
    kubeconfig: str
    netns: str = ""

    def command(self):
        enter = ["nsenter", f"--net={self.netns}"] if self.netns else []
        return [*enter, self.kubectl, "--kubeconfig", self.kubeconfig]


FIRST = Cluster(settings.KUBECTL, settings.KUBECONFIG)
namespaces = []


def kubectl(*arguments, namespace=None, cluster=FIRST, data=None, check=True, timeout=120):
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
class Place:
    """A namespace and what the executor is told about it."""

    namespace: str
    token: str
    server: str
    ca: str
    user: str
    cluster: Cluster


def address(cluster):
    view = json.loads(kubectl("config", "view", "--raw", "--minify", "-o", "json", cluster=cluster))
    return view["clusters"][0]["cluster"]


def make_place(label, cluster=FIRST, namespace=None, user=USER):
    namespace = namespace or f"zuul-{label}-{uuid.uuid4().hex[:8]}"
    kubectl("create", "namespace", namespace, cluster=cluster)
    if cluster is FIRST:
        namespaces.append(namespace)
    kubectl("create", "serviceaccount", user, namespace=namespace, cluster=cluster)
    role = {"kind": "Role", "apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {"name": "zuul-restricted"}}
    apply({**role, "rules": RULES}, namespace, cluster)
    binding = {
        "kind": "RoleBinding",
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "metadata": {"name": "zuul-role"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "zuul-restricted"},
        "subjects": [{"kind": "ServiceAccount", "name": user, "namespace": namespace}],
    }
    apply(binding, namespace, cluster)
    token = kubectl("create", "token", user, "--duration=4h", namespace=namespace, cluster=cluster).decode().strip()
    at = address(cluster)
    ca = at.get("certificate-authority-data")
    if not ca:
        with open(at["certificate-authority"], "rb") as file:
            ca = base64.b64encode(file.read()).decode()
    return Place(namespace, token, at["server"], ca, user, cluster)


def container(name, image="debian"):
    return {"name": name, "image": IMAGES[image], "imagePullPolicy": "IfNotPresent", "command": KEEPER}


def start_pod(place, name, containers=None, **spec):
    apply(pod(name, containers, **spec), place.namespace, place.cluster)


def pod(name, containers=None, **spec):
    """The drivers put `restartPolicy: Never` beside the spec instead of in it: a dead container starts again, empty."""
    body = {
        "containers": containers or [container("main")],
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 1,
        **spec,
    }
    metadata = {"name": name, "labels": {"app": "podbridge-test"}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": body}


def wait_pod(place, name):
    ready = ["wait", "--for=condition=Ready", f"pod/{name}", "--timeout=90s"]
    kubectl(*ready, namespace=place.namespace, cluster=place.cluster)


def delete_pod(place, name):
    """At once, as an eviction does."""
    delete = ["delete", "pod", name, "--force", "--grace-period=0", "--wait=false"]
    kubectl(*delete, namespace=place.namespace, cluster=place.cluster)


def in_pod(place, name, *argv, container=None, check=True):
    options = ["-c", container] if container else []
    command = ["exec", name, *options, "--", *argv]
    return kubectl(*command, namespace=place.namespace, cluster=place.cluster, check=check).decode()


def remove_all():
    if namespaces:
        kubectl("delete", "namespace", *namespaces, "--ignore-not-found", "--wait=false", check=False)


def wait_for(what, condition, seconds=30.0):
    """Poll until it is true; its last answer is told otherwise."""
    end = time.monotonic() + seconds
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds:.0f} s: {what} ({answer!r})")
        time.sleep(0.05)
