"""Scenarios about the live log of ordinary tasks: Zuul's own stream tests, and cases that they leave out."""

import sys

from tier import kube, settings, upstream
from tier.session import LAUNCHER, expect_no_console_files

UPSTREAM = (
    "test_command",
    "test_command_split_streams",
    "test_command_output_max_bytes",
    "test_module_exception",
    "test_module_no_result",
)


def stream_fixtures(session):
    """Zuul's own stream tests, from its sdist, on two pods."""
    nodes = [session.node(name, driver=LAUNCHER) for name in ("compute1", "controller")]
    upstream.run(session, nodes, *UPSTREAM)


def stream_pod(session):
    """Zuul's own playbook for a pod, which stops and starts the console daemon."""
    nodes = [session.node("controller", driver=LAUNCHER)]
    build = upstream.play(session, nodes, "pod")
    assert build.result == "SUCCESS", build.result
    build.joblog().expect_once("controller | third shell")


def stream(session):
    """Long lines, bytes that are not text, loops, async, delegation, run_once, serial, creates."""
    nodes = [session.node("one"), session.node("two")]
    if settings.is_podbridge():
        session.run(nodes, "async")
    for split in (False, True):
        build = session.run(nodes, "stream", split=split)
        log = build.joblog()
        for host in ("one", "two"):
            expect_lines(log, host)
        expect_order(log)
        expect_times(log)
        for _name, namespace, pod in nodes:
            # The stock peer leaves the logs of delegated tasks, because it asks the wrong pod to delete them.
            if settings.is_podbridge():
                expect_no_console_files(namespace, pod)
            kube.exec_in_pod(namespace, pod, "sh", "-c", "rm -f /tmp/console-*")


def expect_lines(log, host):
    log.expect_once(
        f"{host} | {'x' * 135000}",
        f"{host} | on stdout",
        f"{host} | on stderr",
        f"{host} | bytes \\xff\\xfe and ä €",
        f"{host} | rescued",
        f"{host} | always",
        f"{host} | handled",
        f"{host} | in a role",
        f"{host} | free one",
        f"{host} | free two",
        f"{host} | serial {host}",
        f"{host} | after everything",
    )
    log.refuse("never seen", "Log Stream did not terminate", "Waiting on logger", "secret words")
    assert log.lines_of(host).count("twice in an include") == 2
    if settings.is_podbridge():
        # The stock peer loses this line, because the exit code is on the same line.
        log.expect_once(f"{host} | the last line has no newline")
    numbers = [text for text in log.lines_of(host) if text.startswith("number ")]
    assert numbers == [f"number {n}" for n in range(1, 2001)], f"{len(numbers)} numbers of {host}"


def expect_order(log):
    log.expect_once("one | once")
    if settings.is_podbridge():
        # The stock peer asks the pod of the delegating host for these logs.
        log.expect_once("two | delegated from one", "one | delegated from two")
    log.expect_match(r"^one \| ok: Item: b Runtime: ")


def expect_times(log):
    """Asserts that a task that does nothing does not wait for its log, under its short and its full name."""
    names = ("Skipped", "Created already", "Created already, by its full name")
    took = [log.seconds(name) for name in names]
    summary = ", ".join(f"{name}: {seconds:.2f} s" for name, seconds in zip(names, took, strict=True))
    print(f"zuul {settings.PEER}: {summary}", file=sys.stderr)
    if settings.is_podbridge():
        # Zuul waits ten seconds for the log of the last task, unless the answer is that there is none. bench_tasks
        # measures the real time on an idle machine.
        assert max(took) < 9, summary
