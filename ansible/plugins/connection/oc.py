# Copyright: podbridge contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The connection plugin kubectl under the variable names of community.okd.oc; nothing else is different."""

from __future__ import annotations

DOCUMENTATION = r"""
author: podbridge contributors (!UNKNOWN)
name: oc
short_description: Execute tasks in pods running on OpenShift, over one warm connection
description:
  - Runs tasks in, and puts and fetches files to and from, pods of an OpenShift cluster, through a I(podbridge) bridge,
    which is started on demand and keeps one connection to the pod.
  - Takes the options, variables and environment variables of P(community.okd.oc#connection), with the same meaning.
version_added: 0.1.0
requirements:
  - podbridge (binary) on the controller
options:
  oc_pod:
    description:
      - Pod name. Required when the host name does not match the pod name.
    default: ''
    type: str
    vars:
      - name: ansible_oc_pod
    env:
      - name: K8S_AUTH_POD
  oc_container:
    description:
      - Container name. Without it the pod's default container (annotation C(kubectl.kubernetes.io/default-container))
        is used, else its first one.
    default: ''
    type: str
    vars:
      - name: ansible_oc_container
    env:
      - name: K8S_AUTH_CONTAINER
  oc_namespace:
    description:
      - The namespace of the pod. Without it, that of the context.
    default: ''
    type: str
    vars:
      - name: ansible_oc_namespace
    env:
      - name: K8S_AUTH_NAMESPACE
  oc_extra_args:
    description:
      - Further global options of oc, for example C(--as=ci). They are never put on a command line.
    default: ''
    type: str
    vars:
      - name: ansible_oc_extra_args
    env:
      - name: K8S_AUTH_EXTRA_ARGS
  oc_local_env_vars:
    description:
      - Environment variables for the bridge on the controller, for example C(HTTPS_PROXY).
    default: {}
    type: dict
    vars:
      - name: ansible_oc_local_env_vars
  oc_kubeconfig:
    description:
      - Path to an oc config file, or its content as a dictionary. Defaults to C(KUBECONFIG), else I(~/.kube/config).
    default: ''
    type: raw
    vars:
      - name: ansible_oc_kubeconfig
      - name: ansible_oc_config
    env:
      - name: K8S_AUTH_KUBECONFIG
  oc_context:
    description:
      - The name of a context found in the config file.
    default: ''
    type: str
    vars:
      - name: ansible_oc_context
    env:
      - name: K8S_AUTH_CONTEXT
  oc_host:
    description:
      - URL for accessing the API.
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
      - Bearer token for authenticating with the API.
    type: str
    vars:
      - name: ansible_oc_token
      - name: ansible_oc_api_key
    env:
      - name: K8S_AUTH_TOKEN
      - name: K8S_AUTH_API_KEY
  client_cert:
    description:
      - Path to a certificate used to authenticate with the API.
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
      - Path to a key file used to authenticate with the API.
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
      - Path to a CA certificate used to authenticate with the API.
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
      - Whether to verify the API server's certificate. Defaults to what the config file says, else V(true).
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
      - The user in the pod that tasks run as, a name or number; needs an agent that runs as root. Without it
        tasks run as the container's user. C(ansible_user) has no influence, as many images have no such user.
    type: str
    vars:
      - name: ansible_podbridge_user
  pipelining:
    description:
      - Send modules through the connection instead of copying them to the pod first.
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
      - V(false) uses P(community.okd.oc#connection) for this host instead.
    default: true
    type: bool
    vars:
      - name: ansible_podbridge
  podbridge_oom:
    description:
      - What a container that exceeded its memory limit under a task is. A retry would only repeat it,
        so it is V(failed).
    default: failed
    choices: [ failed, unreachable ]
    type: str
    vars:
      - name: ansible_podbridge_oom
  podbridge_executable:
    description:
      - Path of the binary that starts a bridge, or its name in C(PATH).
    default: podbridge
    type: str
    vars:
      - name: ansible_podbridge_executable
    env:
      - name: PODBRIDGE_EXECUTABLE
  podbridge_link:
    description:
      - How the bridge reaches the agent.
    default: auto
    choices: [ auto, exec-proxy, direct, local ]
    type: str
    vars:
      - name: ansible_podbridge_link
    env:
      - name: PODBRIDGE_LINK
  podbridge_agent_socket:
    description:
      - The agent's Unix socket, for the link V(local).
    default: ''
    type: str
    vars:
      - name: ansible_podbridge_agent_socket
    env:
      - name: PODBRIDGE_AGENT_SOCKET
  podbridge_connect_timeout:
    description:
      - Seconds until a pod that does not answer is unreachable.
    default: 30
    type: int
    vars:
      - name: ansible_podbridge_connect_timeout
    env:
      - name: PODBRIDGE_CONNECT_TIMEOUT
  podbridge_idle:
    description:
      - Seconds without a task after which a bridge started by this plugin ends; V(0) is never.
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

# From the collection by its name; from a plain plugin path it is the plugin beside this one.
collection = __name__.startswith("ansible_collections.")
KubectlConnection = connection_loader.get("podbridge.zuul.kubectl" if collection else "kubectl", class_only=True)


class Connection(KubectlConnection):
    """Tasks in one container of one pod."""

    prefix = "oc"
