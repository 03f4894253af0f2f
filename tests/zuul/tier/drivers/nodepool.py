"""Nodes of nodepool's drivers `kubernetes` and `openshiftpods`. The first names a pod after its label, so the pods of
one label have one name, each in its own namespace.
"""

import itertools
import json
import uuid
from collections import defaultdict
from types import SimpleNamespace

from nodepool.driver.kubernetes import KubernetesDriver
from nodepool.driver.openshiftpods import OpenshiftPodsDriver
from nodepool.zk import zookeeper

from tier import drivers, kube

DRIVERS = {"kubernetes": KubernetesDriver, "openshiftpods": OpenshiftPodsDriver}
PROVIDER = "cluster"
numbers = itertools.count(1)


class Pool:
    """Pool of one provider with one label. The names of the namespaces that it makes begin with `name`."""

    def __init__(self, kubeconfig, name, label, driver="kubernetes", context=None):
        section = {"name": PROVIDER, "driver": driver, "pools": [{"name": name, "labels": [label]}]}
        if context:
            section["context"] = context
        made = DRIVERS[driver]()
        self.config = made.getProviderConfig(section)
        self.config.getSchema()(section)
        self.config.load(SimpleNamespace(labels=defaultdict(lambda: SimpleNamespace(pools=[]))))
        (self.pool,) = self.config.pools.values()
        (self.label,) = self.pool.labels.values()
        with drivers.kubeconfig(kubeconfig):
            self.manager = made.getProvider(self.config)
        self.manager.start(None)

    # The methods of a pool worker and of ZooKeeper's client that the code for a request asks.
    launcher_id = "launcher"
    nodepool = SimpleNamespace(statsd=None)

    def getProviderConfig(self):
        return self.config

    def getPoolConfig(self):
        return self.pool

    def getProviderManager(self):
        return self.manager

    def getZK(self):
        return SimpleNamespace(storeNode=lambda _node: None)

    def new_node(self, number=None):
        node = zookeeper.Node(number or f"{next(numbers):010}")
        kube.namespaces.append(f"{self.pool.name}-{node.id}")
        node.provider, node.pool, node.type = PROVIDER, self.pool.name, self.label.name
        return node

    def request(self):
        request = zookeeper.NodeRequest(uuid.uuid4().hex)
        request.event_id, request.requestor, request.node_types = uuid.uuid4().hex, "zuul", [self.label.name]
        return request

    def launch(self, number=None):
        """Makes a node as for a request, and returns what Zuul reads from ZooKeeper about it."""
        handler = self.manager.getRequestHandler(self, self.request())
        handler._setFromPoolWorker()
        node = self.new_node(number)
        handler.launch(node)
        for thread in handler._threads:
            thread.join()
        assert node.state == zookeeper.READY, f"nodepool's node is {node.state}; the executor's log has the reason"
        return json.loads(node.serialize())

    def make_namespace(self):
        """Makes the namespace of a node without its pod; returns what `launch` would return for the pod `label`."""
        node = self.new_node()
        node.connection_port = self.manager.createNamespace(
            node, self.pool.name, self.label, self.request(), restricted_access=True
        )
        node.connection_port["pod"] = node.interface_ip = self.label.name
        node.connection_type, node.python_path, node.state = "kubectl", "auto", zookeeper.READY
        return json.loads(node.serialize())
