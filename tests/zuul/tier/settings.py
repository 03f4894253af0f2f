"""Settings that `../run` passes in TIER_* variables, and the environment of the executor that this process stands for.
No other file of the tier reads those variables, except kube.py for the names of the images.
"""

import os
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(os.environ["TIER_ROOT"])
WORK = Path(os.environ["TIER_WORK"])
PEER = os.environ["TIER_PEER"]
ANSIBLE = Path(os.environ["TIER_ANSIBLE"])
FIXTURES = Path(os.environ["TIER_FIXTURES"]) / "tests"
# Variables of every job.
JOB_VARIABLES = {} if os.environ["TIER_WARM_PYTHON"] == "true" else {"ansible_podbridge_warm_python": False}
KUBECTL = os.environ.get("TIER_KUBECTL", "")
KUBECONFIG = os.environ.get("TIER_KUBECONFIG", "")
# kubectl, kubeconfig and network namespace of a second cluster, for scenarios that need two.
SECOND_CLUSTER = tuple(os.environ.get(f"TIER_SECOND_CLUSTER_{name}", "") for name in ("KUBECTL", "KUBECONFIG", "NETNS"))
# kubectl of the executor. The cluster's own kubectl is larger: it is all of Kubernetes in one program.
STOCK_KUBECTL = os.environ.get("TIER_STOCK_KUBECTL") or KUBECTL
KEEP = bool(os.environ.get("KEEP"))
SKIPPED = int(os.environ.get("SKIPPED") or 200)
# Archive of the image that builds images, for the scenario native_job.
BUILDER = os.environ.get("TIER_BUILDER", "")
# Environment for the command tests/cluster/cluster, which is not a part of an executor.
CLUSTER_ENVIRON = {name: os.environ[name] for name in ("PATH", "HOME")}
CLUSTER_ENVIRON |= {
    f"PODBRIDGE_{name}_DIR": os.environ[f"TIER_{name}_DIR"]
    for name in ("CLUSTER", "CACHE")
    if os.environ.get(f"TIER_{name}_DIR")
}

# Entry in the environment of every process of this run; leftovers.py finds the processes by it.
MARK = f"PODBRIDGE_TIER={WORK}"

BUILDS = WORK / "builds"
HOME = WORK / "home"
PROJECT = ROOT / "tests" / "zuul" / "project"

# SHIM is first in PATH, as /usr/local/sbin is on an executor; the stock kubectl comes later in PATH.
SHIM = WORK / "sbin"
STOCK = WORK / "stock"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def is_podbridge():
    """Returns whether builds use podbridge; otherwise they use the stock kubectl and plugin."""
    return PEER == "podbridge"


def ro_paths():
    """Returns the paths that an operator adds to trusted_ro_paths and untrusted_ro_paths; /usr is always visible."""
    paths = [STOCK, ROOT / "ansible" / "plugins"]
    if is_podbridge():
        paths.append(SHIM)
    # The Python of Zuul's ansible, unless it is the system's.
    if not sys.base_prefix.startswith("/usr"):
        paths.append(Path(sys.base_prefix))
    return [str(path) for path in paths]


def become_executor():
    """Replaces the environment of this process by an executor's: PATH, HOME and little else."""
    for directory in (BUILDS, HOME, STOCK):
        directory.mkdir()
    shutil.copy(os.path.realpath(STOCK_KUBECTL), STOCK / "kubectl")
    environ = {"LC_ALL": "C.UTF-8", "HOME": str(HOME), "PYTHONDONTWRITEBYTECODE": "1"}
    environ["PYTHONPATH"] = os.environ["PYTHONPATH"]
    os.environ.clear()
    os.environ.update(environ)
    os.environ.update([MARK.split("=", 1)])
    if is_podbridge():
        install_shim()
    choose_peer(PEER)


def choose_peer(peer):
    """Selects the kubectl and the connection plugin that the executor finds; nothing else differs between the peers."""
    global PEER
    PEER = peer
    path = f"{STOCK}:{SYSTEM_PATH}"
    os.environ.pop("ANSIBLE_CONNECTION_PLUGINS", None)
    if is_podbridge():
        path = f"{SHIM}:{path}"
        os.environ["ANSIBLE_CONNECTION_PLUGINS"] = str(ROOT / "ansible" / "plugins" / "connection")
    os.environ["PATH"] = path


@contextmanager
def temporary_peer(peer):
    """Selects a peer for the builds that are made, played and closed inside the `with` block."""
    before = PEER
    choose_peer(peer)
    try:
        yield
    finally:
        choose_peer(before)
        # The stock kubectl keeps its cache there.
        shutil.rmtree(HOME / ".kube", ignore_errors=True)


def install_shim():
    """Installs the shims and the two programs into one directory, as the package does."""
    SHIM.mkdir()
    binaries = ROOT / "dist" / "bin"
    for name in ("zuul/kubectl", "zuul/oc", "podbridge", "podbridge-agent"):
        source = binaries / name
        if not source.exists():
            sys.exit(f"zuul tier: {source} is missing; run: make build")
        shutil.copy(source, SHIM / source.name)
