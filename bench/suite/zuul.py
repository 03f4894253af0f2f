"""Real builds of Zuul: runs the scenarios of `bench/builds` in the tier of tests/zuul, and takes over their samples."""

import json
import os
import signal
import subprocess

from suite import settings
from suite.rows import say
from suite.settings import ROOT, STOCK_KUBECTL, WORK
from suite.workloads import AREAS

SCENARIOS = {"zuul": ("bench_tasks", "bench_latency"), "zuul100": ("bench_silent", "bench_idle", "bench_100_pods")}
# Seconds after which a scenario counts as failed.
TIMEOUT = 1200
PEERS = (("podbridge", "auto"), ("kubectl-zuul", "api"))


def measure(rows, areas):
    for area, scenarios in SCENARIOS.items():
        if area not in areas:
            continue
        why = {scenario: run(rows, scenario) for scenario in scenarios}
        error = "; ".join(f"{scenario}: {text}" for scenario, text in why.items() if text) or "it gave no figure"
        for workload, _label, _unit in AREAS[area]:
            for peer, link in PEERS:
                if not rows.samples.get((workload, peer, link)):
                    rows.failed(workload, peer, link, error)


def run(rows, scenario):
    """Runs a scenario and adds its samples; returns why it failed, or nothing."""
    say(f"Zuul: {scenario}")
    path = WORK / f"{scenario}.rows"
    environment = {
        **settings.OUTSIDE,
        "STOCK_KUBECTL": STOCK_KUBECTL,
        "BENCH_ROWS": str(path),
        "BENCH_QUICK": "1" if settings.QUICK else "",
    }
    process = subprocess.Popen(
        [ROOT / "tests/zuul/run", scenario],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        errors = process.communicate(timeout=TIMEOUT)[1].decode(errors="replace")
        why = "" if process.returncode == 0 else errors[-2000:]
    except subprocess.TimeoutExpired:
        why = f"not within {TIMEOUT // 60} minutes"
    finally:
        if process.poll() is None:
            # The tier removes what it has made.
            os.killpg(process.pid, signal.SIGTERM)
            process.communicate()
    if path.exists():
        for line in path.read_text().splitlines():
            workload, peer, link, *samples = json.loads(line)
            rows.add(workload, peer, link, *samples)
    return why
