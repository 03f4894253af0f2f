# Copyright: podbridge contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Connection plugin `oc`: the plugin `kubectl` with the names of options and variables of community.okd.oc.

Only those names and the stock plugin for hosts that opt out differ. Ansible reads the documentation without running the
code, so the options stand here again; the unit test `test_oc_documents_the_options_of_kubectl` keeps both equal.
"""

from __future__ import annotations

DOCUMENTATION = r"""
author: podbridge contributors (!UNKNOWN)
name: oc
short_description: Execute tasks in pods running on OpenShift, over one warm connection
description:
  - Runs tasks in pods of an OpenShift cluster and copies files to and from them, through a I(podbridge) bridge.
  - The bridge is a process on the controller that keeps one connection to the pod open for all tasks. The plugin starts
    it on demand.
  - Takes the options, variables and environment variables of P(community.okd.oc#connection), with the same meaning.
version_added: 0.1.0
requirements:
  - podbridge (the program) on the controller
options:
  oc_pod:
    description:
      - Name of the pod. The default is the host's C(ansible_host), else its name in the inventory.
      - If the pod is named here and C(ansible_host) is an address of 127.0.0.0/8 other than 127.0.0.1, the bridge
        serves Zuul's live log of the pod at this address. A job gives each of its own pods a different address.
    default: ''
    type: str
    vars:
      - name: ansible_oc_pod
    env:
      - name: K8S_AUTH_POD
  oc_container:
    description:
      - Name of the container. The default is the container in the pod's annotation
        C(kubectl.kubernetes.io/default-container), else the pod's first container.
    default: ''
    type: str
    vars:
      - name: ansible_oc_container
    env:
      - name: K8S_AUTH_CONTAINER
  oc_namespace:
    description:
      - Namespace of the pod. The default is the namespace of the context, else C(default).
    default: ''
    type: str
    vars:
      - name: ansible_oc_namespace
    env:
      - name: K8S_AUTH_NAMESPACE
  oc_extra_args:
    description:
      - Further global options of oc and further options of C(oc exec), for example C(--as=ci) or
        C(-c side). Relative paths start at the controller's working directory.
    default: ''
    type: str
    vars:
      - name: ansible_oc_extra_args
    env:
      - name: K8S_AUTH_EXTRA_ARGS
  oc_local_env_vars:
    description:
      - Environment variables for the bridge, which runs on the controller; for example C(HTTPS_PROXY).
    default: {}
    type: dict
    vars:
      - name: ansible_oc_local_env_vars
  oc_kubeconfig:
    description:
      - Path of a kubeconfig file, or its content as a dictionary. The default is the environment variable
        C(KUBECONFIG), else I(~/.kube/config).
    default: ''
    type: raw
    vars:
      - name: ansible_oc_kubeconfig
      - name: ansible_oc_config
    env:
      - name: K8S_AUTH_KUBECONFIG
  oc_context:
    description:
      - Name of a context in the kubeconfig file. The default is the current context of that file.
    default: ''
    type: str
    vars:
      - name: ansible_oc_context
    env:
      - name: K8S_AUTH_CONTEXT
  oc_host:
    description:
      - URL of the API server. The default is the server of the context.
    default: ''
    type: str
    vars:
      - name: ansible_oc_host
      - name: ansible_oc_server
    env:
      - name: K8S_AUTH_HOST
      - name: K8S_AUTH_SERVER
  oc_token:
    description:
      - Bearer token for the API server.
    type: str
    vars:
      - name: ansible_oc_token
      - name: ansible_oc_api_key
    env:
      - name: K8S_AUTH_TOKEN
      - name: K8S_AUTH_API_KEY
  client_cert:
    description:
      - Path of the client certificate for the API server.
    default: ''
    type: str
    vars:
      - name: ansible_oc_cert_file
      - name: ansible_oc_client_cert
    env:
      - name: K8S_AUTH_CERT_FILE
    aliases: [ oc_cert_file ]
  client_key:
    description:
      - Path of the key that belongs to the client certificate.
    default: ''
    type: str
    vars:
      - name: ansible_oc_key_file
      - name: ansible_oc_client_key
    env:
      - name: K8S_AUTH_KEY_FILE
    aliases: [ oc_key_file ]
  ca_cert:
    description:
      - Path of the CA certificate that verifies the certificate of the API server.
    default: ''
    type: str
    vars:
      - name: ansible_oc_ssl_ca_cert
      - name: ansible_oc_ca_cert
    env:
      - name: K8S_AUTH_SSL_CA_CERT
    aliases: [ oc_ssl_ca_cert ]
  validate_certs:
    description:
      - Whether to verify the certificate of the API server. The default is the setting of the kubeconfig file, else
        V(true). This option overrides the setting of the kubeconfig.
    default: ''
    type: raw
    vars:
      - name: ansible_oc_verify_ssl
      - name: ansible_oc_validate_certs
    env:
      - name: K8S_AUTH_VERIFY_SSL
    aliases: [ oc_verify_ssl ]
  remote_user:
    description:
      - Name or number of the user in the pod that tasks run as. The default is the user of the container.
      - Only an agent that runs as root can change the user. A user that the container does not have makes the host
        unreachable, as with ssh.
      - C(ansible_user) has no effect, because many images do not have that user.
    type: str
    vars:
      - name: ansible_podbridge_user
  pipelining:
    description:
      - Whether to send modules through the connection instead of copying them to the pod first.
    default: true
    type: bool
    vars:
      - name: ansible_pipelining
    env:
      - name: ANSIBLE_PIPELINING
    ini:
      - section: defaults
        key: pipelining
      - section: connection
        key: pipelining
  podbridge:
    description:
      - Whether this host uses podbridge. V(false) means P(community.okd.oc#connection) instead.
      - The environment variable C(PODBRIDGE_DISABLE) with a value other than C(0) does the same for all hosts.
    default: true
    type: bool
    vars:
      - name: ansible_podbridge
  podbridge_oom:
    description:
      - Result of a task if its container exceeds the memory limit. The result is a failed task or an unreachable host.
      - The default is V(failed), because a retry on an unreachable host would exceed the limit again.
    default: failed
    choices: [ failed, unreachable ]
    type: str
    vars:
      - name: ansible_podbridge_oom
  podbridge_warm_python:
    description:
      - Whether the agent may run modules in processes that it forks from a prepared Python, instead of a new one each.
    default: true
    type: bool
    vars:
      - name: ansible_podbridge_warm_python
  podbridge_executable:
    description:
      - Path of the program podbridge, or its name in C(PATH). The plugin starts bridges with it.
    default: podbridge
    type: str
    vars:
      - name: ansible_podbridge_executable
    env:
      - name: PODBRIDGE_EXECUTABLE
  podbridge_link:
    description:
      - Link that the bridge uses to reach the agent in the pod.
      - V(auto) starts with V(exec-proxy) and changes to V(direct) if the address of the pod can be reached.
      - V(exec-proxy) goes through the API server, with an exec call in the pod.
      - V(kubectl) does the same with the C(kubectl) in PATH as the client; V(auto) uses it where its own client cannot
        connect.
      - V(direct) is a TLS connection to the address of the pod.
      - V(local) is a Unix socket on the controller, without Kubernetes.
    default: auto
    choices: [ auto, exec-proxy, direct, kubectl, local ]
    type: str
    vars:
      - name: ansible_podbridge_link
    env:
      - name: PODBRIDGE_LINK
  podbridge_agent_socket:
    description:
      - Path of the agent's Unix socket, for the link V(local).
    default: ''
    type: str
    vars:
      - name: ansible_podbridge_agent_socket
    env:
      - name: PODBRIDGE_AGENT_SOCKET
  podbridge_connect_timeout:
    description:
      - Seconds after which a pod that does not answer is unreachable.
    default: 30
    type: int
    vars:
      - name: ansible_podbridge_connect_timeout
    env:
      - name: PODBRIDGE_CONNECT_TIMEOUT
  podbridge_idle:
    description:
      - Seconds without a task after which a bridge that this plugin started ends. V(0) means never.
    default: 600
    type: int
    vars:
      - name: ansible_podbridge_idle
    env:
      - name: PODBRIDGE_IDLE
"""

EXAMPLES = r"""
- name: Run a command in a pod
  hosts: localhost
  gather_facts: false
  vars:
    ansible_connection: podbridge.zuul.oc
    ansible_oc_namespace: my-namespace
    ansible_oc_pod: my-pod
  tasks:
    - name: Say hello
      ansible.builtin.command: echo "Hello, World!"
"""

from ansible.plugins.loader import connection_loader

# In the collection the plugin has its full name; on a plain plugin path it is the file kubectl.py beside this one.
collection = __name__.startswith("ansible_collections.")
KubectlConnection = connection_loader.get("podbridge.zuul.kubectl" if collection else "kubectl", class_only=True)


class Connection(KubectlConnection):
    """Connection to one container of one pod; its options have the prefix `oc`."""

    prefix = "oc"
