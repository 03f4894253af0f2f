"""The peers of Ansible's workloads: how each reaches a pod, as inventory variables and an environment."""

import os
import subprocess
from dataclasses import dataclass, field

from suite.settings import COLLECTIONS, KUBECONFIG, MITOGEN, NAMESPACE, ROOT, STOCK_KUBECTL, WORK
from suite.testbed import KEY, PORT, SSH_OPTIONS

NULL_ANSWERS = WORK / "null.json"
# mitogen's first stage closes the descriptors that kubectl gave it, and containerd then ends the stream. A shell above
# it holds them.
HOLDER = WORK / "kubectl-that-holds"
HOLDER_TEXT = f"""#!/bin/bash
options=()
while [ "$1" != -- ]; do options+=("${{1/#-it/-i}}") && shift; done
exec {STOCK_KUBECTL} "${{options[@]}}" -- sh -c '"$@"; exit' sh "${{@:2}}"
"""


@dataclass(frozen=True)
class Peer:
    """A way to run Ansible in a pod. `slow` peers get fewer rounds."""

    name: str
    link: str
    variables: dict
    environment: dict = field(default_factory=dict)
    slow: bool = False

    def host(self, pod, address):
        """Returns the inventory variables of a pod."""
        values = {"pod": pod, "address": address}
        return {
            name: value.format(**values) if isinstance(value, str) else value for name, value in self.variables.items()
        }


KUBECTL = {
    "ansible_connection": "kubectl",
    "ansible_kubectl_pod": "{pod}",
    "ansible_kubectl_namespace": NAMESPACE,
    "ansible_kubectl_kubeconfig": KUBECONFIG,
}
SSH = {
    "ansible_connection": "ssh",
    "ansible_host": "{address}",
    "ansible_port": PORT,
    "ansible_user": "root",
    "ansible_ssh_private_key_file": str(KEY),
    "ansible_ssh_common_args": " ".join(SSH_OPTIONS),
    # Without Ansible's -C: compression slows a fast link down.
    "ansible_ssh_args": "-o ControlMaster=auto -o ControlPersist=600",
}
STOCK = {"ANSIBLE_COLLECTIONS_PATH": COLLECTIONS}
OURS = {"ANSIBLE_CONNECTION_PLUGINS": str(ROOT / "ansible/plugins/connection")}
MITOGEN_STRATEGY = {
    "ANSIBLE_STRATEGY_PLUGINS": f"{MITOGEN}/ansible_mitogen/plugins/strategy",
    "ANSIBLE_STRATEGY": "mitogen_linear",
    "PYTHONPATH": MITOGEN,
}


def podbridge(link):
    variables = KUBECTL | {"ansible_podbridge_link": link}
    return Peer("podbridge", link, variables, OURS)


PEERS = [
    Peer(
        "null",
        "none",
        {"ansible_connection": "null", "ansible_pipelining": True},
        {"ANSIBLE_CONNECTION_PLUGINS": str(ROOT / "bench/plugins/connection"), "BENCH_NULL": str(NULL_ANSWERS)},
    ),
    podbridge("direct"),
    podbridge("exec-proxy"),
    Peer("mitogen-ssh", "ssh", SSH, MITOGEN_STRATEGY),
    Peer("mitogen-kubectl", "api", KUBECTL | {"mitogen_kubectl_path": str(HOLDER)}, STOCK | MITOGEN_STRATEGY),
    Peer("ssh", "ssh", SSH | {"ansible_pipelining": True}, {"ANSIBLE_SSH_CONTROL_PATH_DIR": str(WORK / "mux")}, True),
    Peer("kubectl-pipelined", "api", KUBECTL | {"ansible_pipelining": True}, STOCK, True),
    Peer("kubectl-zuul", "api", KUBECTL, STOCK, True),
]


def stop():
    """Ends the connections of ssh that outlive a playbook."""
    for socket in (WORK / "mux").iterdir():
        subprocess.run(["ssh", "-o", f"ControlPath={socket}", "-O", "exit", "bench"], capture_output=True, check=False)


def prepare():
    """Writes the files that peers need."""
    HOLDER.write_text(HOLDER_TEXT)
    HOLDER.chmod(0o755)
    (WORK / "mux").mkdir(exist_ok=True)
    (WORK / "bin").mkdir(exist_ok=True)
    link = WORK / "bin" / "kubectl"
    if not link.exists():
        os.symlink(STOCK_KUBECTL, link)
