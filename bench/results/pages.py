"""The files that are made from docs/bench/latest.json: what is in them, writing them, checking them."""

import sys
from pathlib import Path

from results import plots, tables
from results.goals import Goals
from results.rows import Results

ROOT = Path(__file__).resolve().parents[2]
HERE = "docs/bench"
BEGIN, END = "<!-- from docs/bench/latest.json by bench/report -->", "<!-- end -->"
# Name of the plot: heading, workloads, text.
SECTIONS = {
    "tasks": (
        "One task",
        [
            *("command-20", "command-100", "loop", "raw", "copy", "template", "setup", "apt", "package-facts", "play"),
        ],
        "From the start of a play to its end, divided by its tasks. What a peer needs once for a play (mitogen starts "
        "a process of its own, and an interpreter in the pod) is in `command`, 20 and 100 tasks, and in the realistic "
        "play; the other plays find it done. Bridges and connections of ssh are there before the play, because both "
        "outlive one. *Null* answers at once and runs nothing: its time is the time of Ansible itself.",
    ),
    "newest": ("The newest ansible-core", ["newest-command-20", "newest-command-100"], ""),
    "large": (
        "100 MB",
        ["copy-large", "fetch-large"],
        "A TLS stream and `kubectl exec … cat` copy the same file without Ansible: to the pod's address and through "
        "the API server.",
    ),
    "pods": (
        "Many pods",
        ["pods-1", "pods-20", "pods-20-cpu", "pods-100", "pods-100-cpu"],
        "The wall time of a play, divided by its tasks on all pods; pods and executor share the machine. Processor "
        "time is that of ansible-playbook, of the programs that it starts and of the bridges.",
    ),
    "operation": ("One operation without Ansible", ["exec-true", "exec-true-cpu", "warm-true"], ""),
    "rate": ("One file", ["rate-in", "rate-out"], ""),
    "trees": (
        "Trees",
        ["files-1000-in", "files-1000-out", "files-50000-in", "files-50000-again", "files-50000-out"],
        "Files of 1 to 10 kB with source text, on an emptyDir.",
    ),
    "push": ("Repositories", ["push-50", "push-50-true", "push-cached"], ""),
    "memory": (
        "Memory of an idle pod",
        ["memory-bridge", "memory-agent", "memory-warm", "memory-warm-files", "memory-warm-busy"],
        "Without Zuul: a bridge after one command, and `kubectl port-forward`.",
    ),
    "zuul": (
        "Under Zuul",
        [
            *("zuul-command", "zuul-command-silent", "zuul-skipped", "zuul-creates", "zuul-line-p50", "zuul-line-p99"),
            *("zuul-idle-memory", "zuul-idle-switches", "zuul-100-start", "zuul-100-memory", "zuul-100-cpu"),
        ],
        "Zuul's own executor code in its sandbox. A line of the live log: from `write` in the pod until it is on the "
        "executor's stream socket.",
    ),
}
HEAD = """# Benchmarks

Made by `make bench` from [latest.json](latest.json); all figures here are generated. [bench](../../bench/README.md)
says how to run it and what each peer is. A cell shows the median of the rounds and, in brackets, the lowest and the
highest value; a cell without brackets shows a single measurement. Bold marks the best peer; the null transport and the
TLS stream, which are references, are no peers. All peers of a workload ran in one run, in turns, and share the machine
with the pods and the cluster. Compare within a table: machines differ between days.
"""


def readme(results):
    """Returns docs/bench/README.md."""
    parts = [HEAD, "## Runs\n", runs(results), "## Goals\n", goals(results)]
    for name, (heading, workloads, text) in SECTIONS.items():
        table = tables.table(results, workloads)
        if table:
            parts += [f"## {heading}\n"] + ([f"{text}\n"] if text else [])
            parts += [table, f"![{heading}]({name}.svg)\n"]
    return "\n".join(parts)


def runs(results):
    lines = [["run", "date", "minutes", "commit", "load before", "machine", "versions", "areas"]]
    for run in results.runs:
        versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
        quick = " (`QUICK=1`)" if run["quick"] else ""
        lines.append(
            [
                *(str(run[part]) for part in ("run", "date", "minutes", "commit", "load", "machine")),
                versions,
                " ".join(run["areas"]) + quick,
            ]
        )
    return tables.markdown(lines)


def goals(results):
    found = Goals(results).all()
    met = sum(goal.is_met for goal in found)
    return f"{met} of {len(found)} met. A ratio is one of medians.\n\n{tables.goals(found)}"


def files(results, root=ROOT):
    """Returns {path: text} of everything that is made."""
    made = {f"{HERE}/{name}.svg": plots.plot(results, workloads) for name, (_, workloads, _) in SECTIONS.items()}
    made = {path: text for path, text in made.items() if text}
    made[f"{HERE}/README.md"] = readme(results)
    before, rest = (root / "README.md").read_text().split(BEGIN)
    after = rest.split(END, 1)[1]
    made["README.md"] = f"{before}{BEGIN}\n\n{tables.summary(results)}\n{END}{after}"
    return made


def differences(root=ROOT):
    """Returns the paths of files that are not what the rows give."""
    made = files(Results.read(root / HERE / "latest.json"), root)
    wrong = [path for path, text in made.items() if not (root / path).exists() or (root / path).read_text() != text]
    return wrong + [str(path.relative_to(root)) for path in stale(made, root)]


def stale(made, root):
    return [path for path in (root / HERE).glob("*.svg") if str(path.relative_to(root)) not in made]


def write(root=ROOT):
    made = files(Results.read(root / HERE / "latest.json"), root)
    for path in stale(made, root):
        path.unlink()
    for path, text in made.items():
        (root / path).write_text(text)


def main(arguments):
    if arguments == ["write"]:
        write()
        results = Results.read(ROOT / HERE / "latest.json")
        print(goals(results))
        return 0
    if arguments == ["check"]:
        wrong = differences()
        for path in wrong:
            print(f"{path} is not what docs/bench/latest.json gives; run: bench/report write", file=sys.stderr)
        return 1 if wrong else 0
    print("usage: bench/report write|check", file=sys.stderr)
    return 2
