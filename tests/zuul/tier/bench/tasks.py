"""Benchmark of tasks in a real build: skipped tasks and short commands, timed from banner to banner of the live log."""

import statistics

from tier import kube, settings
from tier.bench import table

# Kind of task: label in the table, number of tasks, YAML of the task, goal.
KINDS = {
    "when": ("skipped: `when: false`", 10, "command: echo x\n      when: false", "0.3 s"),
    "creates": ("skipped: `creates:`", 10, "command: echo x\n      args: {creates: /tmp}", "0.3 s"),
    "fqcn": (
        "skipped: `creates:`, `ansible.builtin.command`",
        3,
        "ansible.builtin.command: echo x\n      args: {creates: /tmp}",
        "0.3 s",
    ),
    "short": ("`command: echo x`", 20, "command: echo x", ""),
}


def bench_tasks(session):
    """Skipped tasks and short commands: seconds per task."""
    project = settings.WORK / "bench"
    (project / "playbooks").mkdir(parents=True)
    (project / "playbooks" / "bench.yaml").write_text(playbook())
    with_stream, without = {}, {}
    for peer in table.PEERS:
        with settings.temporary_peer(peer):
            node = session.node()
            with_stream[peer] = measure(session, node, project)
            without[peer] = measure(session, node, project, {"zuul_console_disabled": True})
            kube.delete_pod(*node[1:])
    rows = [
        (label, {peer: with_stream[peer][kind] for peer in with_stream}, "{:.2f} s", goal)
        for kind, (label, _count, _task, goal) in KINDS.items()
    ]
    rows.append(("`command: echo x`, no live log", {peer: without[peer]["short"] for peer in without}, "{:.2f} s", ""))
    waits = {peer: max(0, with_stream[peer]["short"] - without[peer]["short"]) for peer in without}
    rows.append(("what the live log adds to it", waits, "{:.2f} s", ""))
    table.show("seconds per task, the median", rows)


def playbook():
    head = "- hosts: all\n  gather_facts: false\n  tasks:\n    - name: Start zuul_console daemon\n      zuul_console:\n"
    tasks = [
        f"    - name: {kind} {number}\n      {task}\n"
        for kind, (_label, count, task, _goal) in KINDS.items()
        for number in range(count)
    ]
    return head + "".join(tasks) + "    - name: The end\n      debug:\n"


def measure(session, node, project, variables=None):
    """Returns the median seconds of each kind of task."""
    build = session.run([node], "bench", projects={"org/project": project}, host_variables={node[0]: variables or {}})
    log = build.joblog()
    session.end(build)
    return {
        kind: statistics.median(log.seconds_to_next(f"{kind} {number}") for number in range(count))
        for kind, (_label, count, _task, _goal) in KINDS.items()
    }
