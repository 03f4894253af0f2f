"""Benchmarks of git: many repositories pushed at once while commands run, and one that the image has cached."""

import os
import subprocess
import threading
import time

from files import testbed, warm_clients
from files.testbed import BIN, POD, SSH, TARGET, WORK, measure_action, podbridge, run, shell

REPOSITORIES = int(os.environ.get("REPOSITORIES") or 50)
LARGE = 500


def make_repository(path, megabytes):
    run(["git", "init", "-q", "-b", "main", path])
    for name in range(max(1, int(megabytes))):
        (path / f"blob{name}").write_bytes(os.urandom(int(min(megabytes, 1) * 1e6)))
    commit(path, "first")


def commit(path, message):
    git = ["git", "-C", path, "-c", "user.name=bench", "-c", "user.email=bench@localhost"]
    run([*git, "add", "-A"])
    run([*git, "commit", "-q", "-m", message])


def bench(address):
    bench_many(address)
    bench_cached()


def environment(ssh):
    return {**os.environ, "GIT_SSH_COMMAND": ssh}


def push_all(names, url, ssh):
    pushes = [
        subprocess.Popen(
            ["git", "-C", WORK / name, "push", "-q", url(name), "main"],
            env=environment(ssh),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for name in names
    ]
    for push in pushes:
        _, stderr = push.communicate()
        if push.returncode:
            raise SystemExit(stderr.decode())


def bench_many(address):
    names = [f"repository{number}" for number in range(REPOSITORIES)]
    for name in names:
        make_repository(WORK / name, 2)
    ssh_command = f"{BIN}/podbridge {' '.join(TARGET)} ssh"
    bridge_latencies = idle_and_busy_latencies(
        warm_clients.Bridge(), lambda: push_all(names, lambda name: f"{POD}:/disk/pushed/{name}", ssh_command)
    )
    bridge = measure_action(lambda: push_all(names, lambda name: f"{POD}:/disk/again/{name}", ssh_command))
    empty = f"for n in {' '.join(names)}; do git init -q --bare $n; done"
    testbed.exec_in_pod(f"mkdir -p /disk/ssh /disk/more; cd /disk/ssh; {empty}; cd /disk/more; {empty}")
    # sshd refuses connections above MaxStartups while their keys are being exchanged.
    testbed.exec_in_pod(
        "sed -i 's/^#*MaxStartups.*/MaxStartups 200/' /etc/ssh/sshd_config; kill -HUP $(cat /run/sshd.pid)"
    )
    time.sleep(1)
    ssh_latencies = idle_and_busy_latencies(
        warm_clients.Ssh(address),
        lambda: push_all(names, lambda name: f"root@{address}:/disk/more/{name}", " ".join(SSH)),
    )
    ssh = measure_action(lambda: push_all(names, lambda name: f"root@{address}:/disk/ssh/{name}", " ".join(SSH)))
    testbed.table(
        f"{REPOSITORIES} repositories of 2 MB pushed at once",
        ["seconds", "processor seconds, whole machine"],
        [(name, f"{s:.2f}", f"{cpu:.1f}") for name, (s, cpu) in (("podbridge ssh", bridge), ("ssh", ssh))],
    )
    testbed.table(
        "`true` over an open connection, one after the other",
        ["p50", "p99", "during the pushes p50", "p99", "count"],
        [
            (name, *describe(calm)[:2], *describe(meanwhile))
            for name, (calm, meanwhile) in (("podbridge", bridge_latencies), ("a shell over ssh", ssh_latencies))
        ],
    )


def describe(times):
    """Returns p50, p99 and the count as texts."""
    ordered = sorted(times)
    return f"{ordered[len(ordered) // 2]:.1f} ms", f"{ordered[int(len(ordered) * 0.99)]:.1f} ms", str(len(ordered))


def idle_and_busy_latencies(client, push):
    """Returns the latencies of a client during 3 idle seconds, and during `push()`; in milliseconds."""
    try:
        return latencies(client, lambda: time.sleep(3)), latencies(client, push)
    finally:
        client.close()


def latencies(client, action):
    """Returns the latency of each exec while `action()` runs, in milliseconds."""
    times, finished = [], threading.Event()

    def ask():
        # Highest priority for this thread, so that the times do not contain its own waits for a core.
        os.setpriority(os.PRIO_PROCESS, 0, -20)
        while not finished.is_set():
            start = time.monotonic()
            client.true()
            times.append((time.monotonic() - start) * 1000)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        action()
    finally:
        finished.set()
        thread.join()
    return times


def bench_cached():
    path = WORK / "large"
    make_repository(path, LARGE)
    # Put the repository into the cache that an image would have.
    testbed.exec_in_pod("mkdir -p /opt/git/example.org")
    tar = f"tar -C {WORK} -cf - large/.git | {' '.join(map(str, podbridge('exec', '-i', POD, '--')))}"
    shell(f"{tar} sh -c 'mkdir -p /disk/cache/example.org && tar -C /disk/cache/example.org -xf -'")
    (path / "new").write_text("one line\n")
    commit(path, "second")
    ssh_command = f"{BIN}/podbridge {' '.join(TARGET)} ssh --git-cache /disk/cache"
    before = testbed.loopback_bytes()
    url = f"{POD}:/disk/src/example.org/large"
    seconds, _ = measure_action(
        lambda: run(["git", "-C", path, "push", "-q", url, "main"], env=environment(ssh_command))
    )
    moved = testbed.loopback_bytes() - before
    head = run(["git", "-C", path, "rev-parse", "main"]).decode().strip()
    there = (
        testbed.exec_in_pod("git -C /disk/src/example.org/large -c safe.directory='*' rev-parse main").decode().strip()
    )
    if head != there:
        raise SystemExit(f"the pod has {there}, not {head}")
    testbed.table(
        f"A repository of {LARGE} MB that the image's cache has, and one new commit",
        ["seconds", "bytes on all hops together"],
        [("podbridge ssh", f"{seconds:.2f}", str(moved))],
    )
