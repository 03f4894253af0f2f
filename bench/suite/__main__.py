"""Entry point: measures the chosen areas and writes the rows. It fails if a row of podbridge has no figure."""

import json
import os
import platform
import signal
import subprocess
import sys
import time
import traceback
from datetime import datetime, timezone

from suite import many_pods, operations, peers, repositories, settings, single, tasks, testbed, trees, zuul
from suite.rows import Rows, merge, read, say
from suite.workloads import AREA_OF, AREAS

ON_ONE_POD = ("operation", "rate", "files", "trees", "push", *tasks.AREAS)


def main():
    areas = settings.areas()
    os.environ["PODBRIDGE_DIR"] = str(settings.WORK / "bridges")
    run = Run(areas)
    peers.prepare()
    say(f"areas: {' '.join(areas)}")
    # A run that is ended leaves nothing behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        run.measure()
    finally:
        step(testbed.stop_bridges)
        step(peers.stop)
    missing = missing_figures(run.rows.rows(), areas)
    for text in missing:
        print(f"bench: no figure of podbridge: {text}", file=sys.stderr)
    return 1 if missing else 0


class Run:
    """One run: its areas, its rows, and the document that they go into."""

    def __init__(self, areas):
        self.areas = areas
        self.rows = Rows()
        self.began = datetime.now(timezone.utc)
        self.machine = about_machine()
        self.before = read(settings.OUTPUT)

    def measure(self):
        # What needs the slow peers most comes first, because they are left out when it is late. What takes longest
        # comes last.
        long = [area for area in self.areas if area in ("pods100", "zuul100")]
        short = [area for area in self.areas if area not in long]
        self.step(lambda: many_pods.measure(self.rows, short))
        self.step(lambda: zuul.measure(self.rows, short))
        if set(short) & set(ON_ONE_POD):
            self.step(self.measure_one_pod)
        if "memory" in short:
            self.step(lambda: operations.memory(self.rows))
        self.step(lambda: many_pods.measure(self.rows, long))
        self.step(lambda: zuul.measure(self.rows, long))

    def measure_one_pod(self):
        with testbed.pods([testbed.POD]) as pods:
            (address,) = pods.values()
            testbed.wait_for_sshd(address)
            self.step(lambda: tasks.measure(self.rows, self.areas, pods))
            if "operation" in self.areas:
                self.step(lambda: operations.measure(self.rows, address))
            if "rate" in self.areas:
                self.step(lambda: single.measure(self.rows, address))
            self.step(lambda: trees.measure(self.rows, self.areas, address))
            if "push" in self.areas:
                self.step(lambda: repositories.measure(self.rows, address))
            testbed.stop_bridges()

    def step(self, action):
        """Runs a part of the suite, and writes the rows: a run that is ended later keeps them."""
        try:
            step(action)
        finally:
            self.write()

    def write(self):
        made = self.rows.rows()
        measured = {AREA_OF[row["workload"]] for row in made}
        run = {
            "date": self.began.strftime("%Y-%m-%d %H:%M UTC"),
            "minutes": round((time.time() - self.began.timestamp()) / 60, 1),
            "quick": settings.QUICK,
            "areas": [area for area in self.areas if area in measured],
            **self.machine,
        }
        if made:
            merge(settings.OUTPUT, self.before, run, made)


def missing_figures(rows, areas):
    """Returns what has no figure of podbridge: links that failed, and workloads that did not run."""
    ours = [row for row in rows if row["peer"] == "podbridge"]
    failed = [f"{row['workload']} ({row['link']}): {row['why']}" for row in ours if not row["n"]]
    ran = {row["workload"] for row in ours}
    workloads = [workload for area in areas for workload, _label, _unit in AREAS[area]]
    return failed + [f"{workload}: it did not run" for workload in workloads if workload not in ran]


def step(action):
    """Runs a part of the suite; the others run even if it fails."""
    try:
        action()
    except Exception:  # whatever it is, the figures of the other parts count
        say(f"FAILED: {traceback.format_exc()}")


def about_machine():
    """Returns what the figures depend on: the machine, the versions, the commit."""
    with open("/proc/cpuinfo") as file:
        model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), "")
    root = ["git", "-C", settings.ROOT]
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 30
    return {
        "machine": f"{os.cpu_count()} cores, {model}, {memory} GB, Linux {platform.release()}",
        "load": round(os.getloadavg()[0], 1),
        "commit": output([*root, "rev-parse", "--short=10", "HEAD"])
        + ("+" if output([*root, "status", "--porcelain", "-uno"]) else ""),
        "versions": versions(),
    }


def versions():
    core = "from ansible.release import __version__ as v; print(v)"
    return {
        "podbridge": output([settings.BIN / "podbridge", "--version"]).split()[-1],
        "ansible-core": output([f"{settings.CORE}/bin/python", "-c", core]),
        "newest core": output([f"{settings.NEWEST}/bin/python", "-c", core]),
        "mitogen": output(
            [
                f"{settings.CORE}/bin/python",
                "-c",
                "import sys; sys.path.insert(0, sys.argv[1]); import mitogen; print(*mitogen.__version__, sep='.')",
                settings.MITOGEN,
            ]
        ),
        "kubectl": output([settings.STOCK_KUBECTL, "version", "--client"]).split("\n")[0].split()[-1],
        "kubernetes.core": collection_version(),
        "ssh": output(["ssh", "-V"]).split(",")[0],
    }


def collection_version():
    path = f"{settings.COLLECTIONS}/ansible_collections/kubernetes/core/MANIFEST.json"
    with open(path) as file:
        return json.load(file)["collection_info"]["version"]


def output(command):
    """Returns what a program prints; what it says about an error if it fails."""
    done = subprocess.run(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
