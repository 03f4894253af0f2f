"""This file owns what the tier is told by `run`, and the environment of the executor that it plays."""

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
KUBECTL = os.environ.get("TIER_KUBECTL", "")
KUBECONFIG = os.environ.get("TIER_KUBECONFIG", "")
# A cluster beside that one, for scenarios that need two.
SECOND_CLUSTER = tuple(os.environ.get(f"TIER_SECOND_CLUSTER_{name}", "") for name in ("KUBECTL", "KUBECONFIG", "NETNS"))
# The executor's; the cluster's own is larger, it is all of Kubernetes in one program.
STOCK_KUBECTL = os.environ.get("TIER_STOCK_KUBECTL") or KUBECTL
KEEP = bool(os.environ.get("KEEP"))
SKIPPED = int(os.environ.get("SKIPPED") or 200)
# For the command tests/cluster/cluster, which is no part of an executor.
CLUSTER_ENVIRON = {name: os.environ[name] for name in ("PATH", "HOME")}
CLUSTER_ENVIRON |= {
    f"PODBRIDGE_{name}_DIR": os.environ[f"TIER_{name}_DIR"]
    for name in ("CLUSTER", "CACHE")
    if os.environ.get(f"TIER_{name}_DIR")
}

# Every process of this run carries it in its environment.
MARK = f"PODBRIDGE_TIER={WORK}"

BUILDS = WORK / "builds"
HOME = WORK / "home"
PROJECT = ROOT / "tests" / "zuul" / "project"

# First in PATH, as /usr/local/sbin is on an executor, and the stock kubectl somewhere behind it.
SHIM = WORK / "sbin"
STOCK = WORK / "stock"
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def podbridge():
    return PEER == "podbridge"


def ro_paths():
    """What an operator adds to trusted_ro_paths and untrusted_ro_paths: nothing that is in /usr."""
    paths = [STOCK, ROOT / "ansible" / "plugins"]
    if podbridge():
        paths.append(SHIM)
    # The Python of Zuul's ansible, where it is not the system's.
    if not sys.base_prefix.startswith("/usr"):
        paths.append(Path(sys.base_prefix))
    return [str(path) for path in paths]


def become_executor():
    """Make this process an executor's: its PATH, its home, and nothing else in its environment."""
    for directory in (BUILDS, HOME, STOCK):
        directory.mkdir()
    shutil.copy(os.path.realpath(STOCK_KUBECTL), STOCK / "kubectl")
    environ = {"LC_ALL": "C.UTF-8", "HOME": str(HOME), "PYTHONDONTWRITEBYTECODE": "1"}
    environ["PYTHONPATH"] = os.environ["PYTHONPATH"]
    os.environ.clear()
    os.environ.update(environ)
    os.environ.update([MARK.split("=", 1)])
    if podbridge():
        install_shim()
    choose_peer(PEER)


def choose_peer(peer):
    """Which kubectl the executor finds first, and which plugin: all that is different."""
    global PEER
    PEER = peer
    path = f"{STOCK}:{SYSTEM_PATH}"
    os.environ.pop("ANSIBLE_CONNECTION_PLUGINS", None)
    if podbridge():
        path = f"{SHIM}:{path}"
        os.environ["ANSIBLE_CONNECTION_PLUGINS"] = str(ROOT / "ansible" / "plugins" / "connection")
    os.environ["PATH"] = path


@contextmanager
def as_peer(peer):
    """For scenarios that hold the two side by side: builds that are made, played and closed herein are this peer's."""
    before = PEER
    choose_peer(peer)
    try:
        yield
    finally:
        choose_peer(before)
        # The stock kubectl caches there.
        shutil.rmtree(HOME / ".kube", ignore_errors=True)


def install_shim():
    """As the package does: the shims and the two programs in one directory."""
    SHIM.mkdir()
    binaries = ROOT / "dist" / "bin"
    for name in ("zuul/kubectl", "zuul/oc", "podbridge", "podbridge-agent"):
        source = binaries / name
        if not source.exists():
            sys.exit(f"zuul tier: {source} is missing; make build makes it")
        shutil.copy(source, SHIM / source.name)
