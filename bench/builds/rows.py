"""Samples of the builds: each is printed, and is a line of JSON in the file BENCH_ROWS, which the suite reads."""

import json
import os

# Read now, because the tier replaces the environment by an executor's.
PATH = os.environ.get("BENCH_ROWS")
QUICK = bool(os.environ.get("BENCH_QUICK"))
# The tier's name of a peer: its name and its link in the rows.
PEERS = {"podbridge": ("podbridge", "auto"), "stock": ("kubectl-zuul", "api")}


def count(full, quick):
    """Returns the first number, or the second if the run has to be quick."""
    return quick if QUICK else full


def add(workload, peer, *samples):
    name, link = PEERS[peer]
    print(f"{workload}: {name}: {', '.join(f'{sample:.4g}' for sample in samples)}", flush=True)
    if PATH:
        with open(PATH, "a") as file:
            file.write(json.dumps([workload, name, link, *samples]) + "\n")


def percentile(values, percent):
    """Returns the value at this percentile, without interpolation."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]
