# Copyright: podbridge contributors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Inventory plugin: a host for each container of pods.

It asks `podbridge pods`, with the options and variables of the connection plugin, so that both reach the same API
server as the same user. It owns the names of hosts and groups and the hosts' variables.
"""

from __future__ import annotations

DOCUMENTATION = r"""
name: pods
short_description: Containers of Kubernetes pods as hosts
description:
  - Creates a host for each container of the pods in one or more namespaces, including native sidecars. The hosts use
    the connection P(podbridge.zuul.kubectl#connection).
  - A host has the name C(POD_CONTAINER), as with the inventory plugin C(kubernetes.core.k8s) that
    C(kubernetes.core) removed in its release 4. (The role P(podbridge.zuul.pod#role) names its hosts C(POD) and
    C(POD-CONTAINER).) If pods of two namespaces have the same name, their hosts are named C(NAMESPACE_POD_CONTAINER).
  - Creates a group for the cluster, a group C(namespace_NAMESPACE) below it for each namespace, a group
    C(namespace_NAMESPACE_pods) below that with its hosts, and a group for each label (C(label_KEY_VALUE)), as with that
    plugin. Characters that Ansible does not allow in the name of a group become C(_).
  - A host has the variables C(object_type), C(cluster_name), C(labels), C(annotations), C(pod_name), C(pod_uid),
    C(pod_resource_version), C(pod_phase), C(pod_node_name), C(pod_host_ip), C(pod_ip), C(container_name),
    C(container_image), C(container_state), C(container_ready), C(container_restarts) and C(container_is_sidecar).
  - Needs the Kubernetes permission C(pods) C(list) and the program C(podbridge) on the controller, but no Python
    package.
  - The name of the inventory file ends with C(pods.yml) or C(pods.yaml).
version_added: 0.1.0
author:
  - podbridge contributors (@podbridge)
extends_documentation_fragment:
  - constructed
  - inventory_cache
options:
  plugin:
    description: Name of this plugin.
    required: true
    choices: [ podbridge.zuul.pods ]
  namespaces:
    description:
      - Namespaces of the pods. The default is the namespace of the context.
      - The plugin sends one request to the API server for each namespace.
    type: list
    elements: str
    default: []
  all_namespaces:
    description: Take the pods of all namespaces. Needs the right to list pods in the whole cluster.
    type: bool
    default: false
  label_selectors:
    description: Labels that the pods have, in kubectl's syntax, for example C(app=web) or C(tier notin (cache)).
    type: list
    elements: str
    default: []
  field_selectors:
    description: Fields that the pods have, in kubectl's syntax, for example C(status.phase=Running).
    type: list
    elements: str
    default: []
  cluster_name:
    description:
      - Name of the group of all hosts. The default is the address of the API server, with C(-) for dots and C(_) for
        colons.
    type: str
  kubeconfig:
    description:
      - Path of a kubeconfig file, or its content as a dictionary. The default is the environment variable
        C(KUBECONFIG), else I(~/.kube/config).
    type: raw
    env:
      - name: K8S_AUTH_KUBECONFIG
  context:
    description: Name of a context in the kubeconfig file. The default is the current context of that file.
    type: str
    env:
      - name: K8S_AUTH_CONTEXT
  host:
    description: URL of the API server. The default is the server of the context.
    type: str
    env:
      - name: K8S_AUTH_HOST
      - name: K8S_AUTH_SERVER
  token:
    description:
      - Bearer token for the API server.
      - Each host has the token as a variable. If you print the inventory or write it to a file, the output contains the
        token.
    type: str
    aliases: [ api_key ]
    env:
      - name: K8S_AUTH_TOKEN
      - name: K8S_AUTH_API_KEY
  username:
    description: User name for the API server.
    type: str
    env:
      - name: K8S_AUTH_USERNAME
  password:
    description: Password for the API server.
    type: str
    env:
      - name: K8S_AUTH_PASSWORD
  client_cert:
    description: Path of the client certificate for the API server.
    type: str
    aliases: [ cert_file ]
    env:
      - name: K8S_AUTH_CERT_FILE
  client_key:
    description: Path of the key that belongs to the client certificate.
    type: str
    aliases: [ key_file ]
    env:
      - name: K8S_AUTH_KEY_FILE
  ca_cert:
    description: Path of the CA certificate that verifies the certificate of the API server.
    type: str
    aliases: [ ssl_ca_cert ]
    env:
      - name: K8S_AUTH_SSL_CA_CERT
  validate_certs:
    description:
      - Whether to verify the certificate of the API server. The default is the setting of the kubeconfig file, else
        V(true).
    type: raw
    aliases: [ verify_ssl ]
    env:
      - name: K8S_AUTH_VERIFY_SSL
  extra_args:
    description: Further global options of kubectl, for example C(--as=ci).
    type: str
    env:
      - name: K8S_AUTH_EXTRA_ARGS
  podbridge_executable:
    description: Path of the program podbridge, or its name in C(PATH).
    type: str
    default: podbridge
    env:
      - name: PODBRIDGE_EXECUTABLE
  connect_timeout:
    description: Seconds after which an API server that does not answer is an error.
    type: int
    default: 30
    env:
      - name: PODBRIDGE_CONNECT_TIMEOUT
"""

EXAMPLES = r"""
# ci.pods.yaml: the running containers of two namespaces
plugin: podbridge.zuul.pods
namespaces: [ ci, staging ]
field_selectors: [ status.phase=Running ]
---
# The pods of an application, in groups by their version
plugin: podbridge.zuul.pods
context: production
label_selectors: [ app=web ]
compose:
  ansible_podbridge_user: "'www-data'"
keyed_groups:
  - key: labels.version
    prefix: version
groups:
  ready: container_ready
cache: true
cache_plugin: ansible.builtin.jsonfile
cache_connection: /tmp/inventory
"""

import collections
import json
import os
import subprocess

from ansible.errors import AnsibleParserError
from ansible.playbook.play_context import PlayContext
from ansible.plugins.loader import connection_loader
from ansible.utils.unsafe_proxy import wrap_var

from ansible.plugins.inventory import BaseInventoryPlugin, Cacheable, Constructable

CONNECTION = "podbridge.zuul.kubectl"
# Options that this plugin hands to the connection plugin, and the hosts' variables, and what they are called there.
CONNECTION_OPTIONS = {
    "kubeconfig": ("kubectl_kubeconfig", "ansible_kubectl_kubeconfig"),
    "context": ("kubectl_context", "ansible_kubectl_context"),
    "host": ("kubectl_host", "ansible_kubectl_host"),
    "token": ("kubectl_token", "ansible_kubectl_token"),
    "username": ("kubectl_username", "ansible_kubectl_username"),
    "password": ("kubectl_password", "ansible_kubectl_password"),
    "client_cert": ("client_cert", "ansible_kubectl_client_cert"),
    "client_key": ("client_key", "ansible_kubectl_client_key"),
    "ca_cert": ("ca_cert", "ansible_kubectl_ca_cert"),
    "validate_certs": ("validate_certs", "ansible_kubectl_validate_certs"),
    "extra_args": ("kubectl_extra_args", "ansible_kubectl_extra_args"),
}
# A target names a pod; `podbridge pods` ignores this name.
ANY_POD = "pods"


class InventoryModule(BaseInventoryPlugin, Constructable, Cacheable):
    NAME = "podbridge.zuul.pods"

    def verify_file(self, path):
        return super().verify_file(path) and path.endswith(("pods.yml", "pods.yaml"))

    def parse(self, inventory, loader, path, cache=True):
        super().parse(inventory, loader, path, cache)
        self._read_config_data(path)
        key = self.get_cache_key(path)
        use = self.get_option("cache")
        found = self._cache.get(key) if use and cache else None
        if found is None:
            found = self._list()
            if use:
                self._cache[key] = found
        self._populate(found)

    def _list(self):
        """Returns the answer of `podbridge pods`: the server, and the pods of all wanted namespaces."""
        options = ["--output=json", f"--connect-timeout={self.get_option('connect_timeout')}"]
        for name, option in (("label_selectors", "selector"), ("field_selectors", "field-selector")):
            options += [f"--{option}={','.join(self.get_option(name))}"] * bool(self.get_option(name))
        if self.get_option("all_namespaces"):
            return self._podbridge(None, [*options, "--all-namespaces"])
        answers = [self._podbridge(namespace, options) for namespace in self.get_option("namespaces") or [None]]
        return {"server": answers[0]["server"], "pods": [pod for answer in answers for pod in answer["pods"]]}

    def _podbridge(self, namespace, options):
        connection = connection_loader.get(CONNECTION, PlayContext(), os.devnull)
        if connection is None:
            raise AnsibleParserError(f"{self.NAME} needs the connection plugin {CONNECTION} of the same collection")
        direct = {name: self.get_option(option) for option, (name, _variable) in CONNECTION_OPTIONS.items()}
        direct.update(
            kubectl_namespace=namespace,
            kubectl_pod=ANY_POD,
            podbridge_executable=self.get_option("podbridge_executable"),
        )
        connection.set_options(direct={name: value for name, value in direct.items() if value is not None})
        command = [*connection.podbridge_command, "pods", *options]
        try:
            ran = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        except OSError as error:
            message = f"cannot run {command[0]}: {error.strerror}; install podbridge or set podbridge_executable"
            raise AnsibleParserError(message) from error
        if ran.returncode != 0:
            message = ran.stderr.decode(errors="replace").strip().removeprefix("podbridge: ")
            raise AnsibleParserError(f"the pods cannot be listed: {message}")
        return json.loads(ran.stdout)

    def _populate(self, found):
        shown = self.get_option("cluster_name") or found["server"].split("://")[-1].replace(".", "-").replace(":", "_")
        cluster = self._group(shown)
        namespaces = collections.defaultdict(set)
        for pod in found["pods"]:
            namespaces[pod["name"]].add(pod["namespace"])
        for pod in found["pods"]:
            prefix = f"{pod['namespace']}_" if len(namespaces[pod["name"]]) > 1 else ""
            for container in pod["containers"]:
                # Without a state it has not been started, and its pod may have no node.
                if container["state"]:
                    self._add(cluster, f"{prefix}{pod['name']}_{container['name']}", pod, container)

    def _add(self, cluster, name, pod, container):
        namespace = self._group(f"namespace_{pod['namespace']}", cluster)
        self.inventory.add_host(name, self._group(f"namespace_{pod['namespace']}_pods", namespace))
        for key, value in pod["labels"].items():
            self.inventory.add_host(name, self._group(f"label_{key}_{value}"))
        given = {variable: self.get_option(option) for option, (_name, variable) in CONNECTION_OPTIONS.items()}
        # Whoever may make a pod chooses its labels and annotations: they are data, and never a template.
        facts = {
            "object_type": "pod",
            "cluster_name": cluster,
            "labels": pod["labels"],
            "annotations": pod["annotations"],
            "pod_name": pod["name"],
            "pod_uid": pod["uid"],
            "pod_resource_version": pod["resource_version"],
            "pod_phase": pod["phase"],
            "pod_node_name": pod["node"],
            "pod_host_ip": pod["host_ip"],
            "pod_ip": pod["pod_ip"],
            "container_name": container["name"],
            "container_image": container["image"],
            "container_state": container["state"],
            "container_ready": container["ready"],
            "container_restarts": container["restarts"],
            "container_is_sidecar": container["sidecar"],
        }
        variables = {
            "ansible_connection": CONNECTION,
            "ansible_kubectl_namespace": pod["namespace"],
            "ansible_kubectl_pod": pod["name"],
            "ansible_kubectl_container": container["name"],
            **{variable: value for variable, value in given.items() if value is not None},
            **wrap_var(facts),
        }
        for variable, value in variables.items():
            self.inventory.set_variable(name, variable, value)
        strict = self.get_option("strict")
        self._set_composite_vars(self.get_option("compose"), variables, name, strict=strict)
        self._add_host_to_composed_groups(self.get_option("groups"), variables, name, strict=strict)
        self._add_host_to_keyed_groups(self.get_option("keyed_groups"), variables, name, strict=strict)

    def _group(self, name, parent=None):
        """Makes a group, below `parent`, and returns its name with the characters that Ansible allows."""
        group = self.inventory.add_group(self._sanitize_group_name(name))
        if parent:
            self.inventory.add_child(parent, group)
        return group
