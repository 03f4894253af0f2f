"""This file owns the live log of ordinary tasks: Zuul's own stream tests, and what they leave out."""

import sys

from tier import kube, settings, upstream
from tier.session import expect_no_console_files

UPSTREAM = (
    "test_command",
    "test_command_split_streams",
    "test_command_output_max_bytes",
    "test_module_exception",
    "test_module_no_result",
)


def stream_fixtures(session):
    """Zuul's own stream tests, from its sdist, on two pods."""
    nodes = [session.node("compute1"), session.node("controller")]
    upstream.run(session, nodes, *UPSTREAM)


def stream_pod(session):
    """Zuul's own playbook for a pod: the console daemon is stopped and started again."""
    nodes = [session.node("controller")]
    build = upstream.play(session, nodes, "pod")
    assert build.result == "SUCCESS", build.result
    build.joblog().expect_once("controller | third shell")


def stream(session):
    """Long lines, bytes that are no text, loops, async, delegation, run_once, serial, creates."""
    nodes = [session.node("one"), session.node("two")]
    if settings.podbridge():
        session.run(nodes, "async")
    for split in (False, True):
        build = session.run(nodes, "stream", split=split)
        log = build.joblog()
        for host in ("one", "two"):
            expect_lines(log, host)
        expect_order(log)
        expect_times(log)
        for _name, place, pod in nodes:
            # Stock leaves the delegated tasks' logs, which it asked another pod to delete.
            if settings.podbridge():
                expect_no_console_files(place, pod)
            kube.in_pod(place, pod, "sh", "-c", "rm -f /tmp/console-*")


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
    assert log.of(host).count("twice in an include") == 2
    if settings.podbridge():
        # Stock loses it: the exit code is on the same line.
        log.expect_once(f"{host} | the last line has no newline")
    numbers = [text for text in log.of(host) if text.startswith("number ")]
    assert numbers == [f"number {n}" for n in range(1, 2001)], f"{len(numbers)} numbers of {host}"


def expect_order(log):
    log.expect_once("one | once")
    if settings.podbridge():
        # Stock asks the delegating host's pod.
        log.expect_once("two | delegated from one", "one | delegated from two")
    log.expect_match(r"^one \| ok: Item: b Runtime: ")


def expect_times(log):
    """A task that does nothing takes no time for its log, by whichever name it is called."""
    names = ("Skipped", "Created already", "Created already, by its full name")
    took = [log.seconds(name) for name in names]
    told = ", ".join(f"{name}: {seconds:.2f} s" for name, seconds in zip(names, took, strict=True))
    print(f"zuul {settings.PEER}: {told}", file=sys.stderr)
    if settings.podbridge():
        # Zuul waits ten seconds for the log of the last one, if nobody tells it that there is none. How much faster it
        # is on a machine that does nothing else, the benchmark says.
        assert max(took) < 9, told
