"""Benchmark of tasks in a real build: skipped tasks and short commands, timed from banner to banner of the live log."""

from tier import kube, settings

from builds import rows

# Workload: number of tasks, YAML of the task.
KINDS = {
    "zuul-skipped": (rows.count(10, 3), "command: echo x\n      when: false"),
    "zuul-creates": (rows.count(10, 3), "command: echo x\n      args: {creates: /tmp}"),
    "zuul-command": (rows.count(20, 5), "command: echo x"),
}


def bench_tasks(session):
    """Skipped tasks and short commands: milliseconds per task."""
    compare(session, {}, {kind: kind for kind in KINDS}, rows.count(2, 1))


def bench_silent(session):
    """The same without a live log."""
    compare(session, {"zuul_console_disabled": True}, {"zuul-command": "zuul-command-silent"}, 1)


def compare(session, variables, workloads, rounds):
    """Runs the playbook with each peer in each round.

    `workloads` maps the kinds of tasks that count to the names of their rows.
    """
    project = settings.WORK / "bench"
    (project / "playbooks").mkdir(parents=True)
    (project / "playbooks" / "bench.yaml").write_text(playbook())
    for _ in range(rounds):
        for peer in rows.PEERS:
            with settings.temporary_peer(peer):
                node = session.node()
                times = measure(session, node, project, variables)
                for kind, workload in workloads.items():
                    rows.add(workload, peer, *times[kind])
                kube.delete_pod(*node[1:])


def playbook():
    head = "- hosts: all\n  gather_facts: false\n  tasks:\n    - name: Start zuul_console daemon\n      zuul_console:\n"
    tasks = [
        f"    - name: {kind} {number}\n      {task}\n"
        for kind, (count, task) in KINDS.items()
        for number in range(count)
    ]
    return head + "".join(tasks) + "    - name: The end\n      debug:\n"


def measure(session, node, project, variables):
    """Returns the milliseconds of each task, by kind."""
    build = session.run([node], "bench", projects={"org/project": project}, host_variables={node[0]: variables})
    log = build.joblog()
    session.end(build)
    return {
        kind: [log.seconds_to_next(f"{kind} {number}") * 1000 for number in range(count)]
        for kind, (count, _task) in KINDS.items()
    }
