"""What to measure and how often. `../run` passes its settings in BENCH_* variables."""

import os
from pathlib import Path

from suite.workloads import AREAS, LONG

QUICK = bool(os.environ.get("QUICK"))
ONLY = [name for name in os.environ.get("ONLY", "").split(",") if name]

WORK = Path(os.environ["BENCH_WORK"])
ROOT = Path(os.environ["BENCH_ROOT"])
BIN = ROOT / "dist" / "bin"
NAMESPACE = os.environ["BENCH_NAMESPACE"]
KUBECONFIG = os.environ["BENCH_KUBECONFIG"]
# kubectl of the cluster, for the setup, and the stock kubectl, a peer.
CLUSTER_KUBECTL = os.environ["BENCH_KUBECTL"]
STOCK_KUBECTL = os.environ["BENCH_STOCK"]
COLLECTIONS = os.environ["BENCH_COLLECTIONS"]
MITOGEN = os.environ["BENCH_MITOGEN"]
# Virtual environments of the oldest and the newest ansible-core of the comparison.
CORE = os.environ["BENCH_CORE"]
NEWEST = os.environ["BENCH_NEWEST"]
OUTPUT = os.environ["BENCH_OUTPUT"]
# Environment for tests/zuul/run, which is not a part of the suite: as it was before `../run` cleaned it.
OUTSIDE = {
    name.removeprefix("BENCH_OUTSIDE_"): value
    for name, value in os.environ.items()
    if name.startswith("BENCH_OUTSIDE_")
}

ROUNDS = 2 if QUICK else 3
# Seconds after which every workload has one more round only, because a slow machine must not take an hour. A quick run
# leaves out the slow peers then.
ENOUGH = 330 if QUICK else 19 * 60


def count(full, quick):
    """Returns the first number, or the second if the run has to be quick."""
    return quick if QUICK else full


def areas():
    """Returns the areas to measure, in order."""
    unknown = set(ONLY) - set(AREAS)
    if unknown:
        raise SystemExit(f"bench: unknown area {', '.join(sorted(unknown))}; the areas are {' '.join(AREAS)}")
    return [area for area in AREAS if (area in ONLY if ONLY else not (QUICK and area in LONG))]
