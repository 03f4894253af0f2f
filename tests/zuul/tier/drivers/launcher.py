"""Nodes of the driver `kubernetes` of Zuul's own launcher. A pod has the name of its namespace."""

import json
import logging
from unittest import mock

from zuul import provider
from zuul.driver.kubernetes import KubernetesDriver
from zuul.driver.kubernetes.kubernetesendpoint import KubernetesCreateStateMachine, KubernetesDeleteStateMachine
from zuul.driver.kubernetes.kubernetesprovider import KubernetesProviderImage, KubernetesProviderLabel
from zuul.model import STATE_READY
from zuul.zk.zkobject import LocalZKContext

from tier import drivers, kube

ATTEMPTS = 3
LOG = logging.getLogger("zuul.Launcher")
# What Zuul adds to labels and images of a project's configuration.
INTERNAL = {"project_canonical_name": "review.example.com/config", "branch": "master", "config_hash": "0"}


class Launcher:
    """Launcher with one label `spec`."""

    def __init__(self, kubeconfig, spec):
        self.driver = KubernetesDriver()
        connection = self.driver.getConnection("cluster", {"driver": "kubernetes", "kubeconfig_file": kubeconfig})
        self.image = KubernetesProviderImage({"name": "image", "type": "cloud", **INTERNAL}, {})
        label = {"name": "label", "image": "image", "flavor": "flavor", "kind": "pod", "spec": spec, **INTERNAL}
        self.label = KubernetesProviderLabel(label, {})
        # Quotas are kept in ZooKeeper.
        with mock.patch.object(provider, "QuotaCache"):
            self.endpoint = self.driver._getEndpoint(None, connection, "system")
        with drivers.kubeconfig(kubeconfig):
            self.endpoint.start()

    def launch(self):
        """Makes a node, and returns what the executor reads from ZooKeeper about it."""
        for attempt in range(ATTEMPTS):
            try:
                return self.attempt()
            except Exception:
                LOG.exception("Launch attempt %d of %d failed", attempt + 1, ATTEMPTS)
                if attempt + 1 == ATTEMPTS:
                    raise

    def attempt(self):
        context = LocalZKContext(LOG)
        node = self.driver.getProviderNodeClass().new(
            context,
            label=self.label.name,
            tags={"zuul_node_label": self.label.name},
            connection_type=self.image.connection_type,
            connection_port=self.image.connection_port,
            python_path=self.image.python_path,
            username=self.image.username,
        )
        # The name that the provider of Zuul gives.
        hostname = f"np{node.uuid[:13]}"
        kube.namespaces.append(hostname)
        with node.activeContext(context):
            machine = KubernetesCreateStateMachine(self.endpoint, node, hostname, self.label, None, self.image, LOG)
            try:
                kube.wait_for(f"the node {hostname}", lambda: machine.advance() or machine.complete, 120)
            except Exception:
                self.delete(node)
                raise
        return json.loads(json.dumps({"state": STATE_READY, **node.getNodeData()}))

    def delete(self, node):
        machine = KubernetesDeleteStateMachine(self.endpoint, node, LOG)
        while not machine.complete:
            machine.advance()
