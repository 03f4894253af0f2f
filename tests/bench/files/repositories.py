"""This file owns the benchmarks of git: many repositories at once while commands run, one that the image has cached."""

import os
import subprocess
import threading
import time

from files import testbed, warm_clients
from files.testbed import BIN, POD, SSH, TARGET, WORK, podbridge, run, shell, timed

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
    many(address)
    cached()


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
        _, said = push.communicate()
        if push.returncode:
            raise SystemExit(said.decode())


def many(address):
    names = [f"repository{number}" for number in range(REPOSITORIES)]
    for name in names:
        make_repository(WORK / name, 2)
    over = f"{BIN}/podbridge {' '.join(TARGET)} ssh"
    bridge_latencies = beside(
        warm_clients.Bridge(), lambda: push_all(names, lambda name: f"{POD}:/disk/pushed/{name}", over)
    )
    bridge = timed(lambda: push_all(names, lambda name: f"{POD}:/disk/again/{name}", over))
    empty = f"for n in {' '.join(names)}; do git init -q --bare $n; done"
    testbed.in_pod(f"mkdir -p /disk/ssh /disk/more; cd /disk/ssh; {empty}; cd /disk/more; {empty}")
    # As many at once as sshd lets in without a key exchanged.
    testbed.in_pod("sed -i 's/^#*MaxStartups.*/MaxStartups 200/' /etc/ssh/sshd_config; kill -HUP $(cat /run/sshd.pid)")
    time.sleep(1)
    ssh_latencies = beside(
        warm_clients.Ssh(address),
        lambda: push_all(names, lambda name: f"root@{address}:/disk/more/{name}", " ".join(SSH)),
    )
    ssh = timed(lambda: push_all(names, lambda name: f"root@{address}:/disk/ssh/{name}", " ".join(SSH)))
    testbed.table(
        f"{REPOSITORIES} repositories of 2 MB pushed at once",
        ["seconds", "processor seconds, whole machine"],
        [(name, f"{s:.2f}", f"{cpu:.1f}") for name, (s, cpu) in (("podbridge ssh", bridge), ("ssh", ssh))],
    )
    testbed.table(
        "`true` over a connection that is up, one after the other",
        ["p50", "p99", "during the pushes p50", "p99", "count"],
        [
            (name, *describe(calm)[:2], *describe(meanwhile))
            for name, (calm, meanwhile) in (("podbridge", bridge_latencies), ("a shell over ssh", ssh_latencies))
        ],
    )


def describe(times):
    ordered = sorted(times)
    return f"{ordered[len(ordered) // 2]:.1f} ms", f"{ordered[int(len(ordered) * 0.99)]:.1f} ms", str(len(ordered))


def beside(client, push):
    """Latencies while nothing happens, and during pushes."""
    try:
        return latencies(client, lambda: time.sleep(3)), latencies(client, push)
    finally:
        client.close()


def latencies(client, action):
    """Of execs while the action runs, ms."""
    times, over = [], threading.Event()

    def ask():
        # This thread alone: what is measured is how long a command takes, not how long its caller waits for a core.
        os.setpriority(os.PRIO_PROCESS, 0, -20)
        while not over.is_set():
            start = time.monotonic()
            client.true()
            times.append((time.monotonic() - start) * 1000)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        action()
    finally:
        over.set()
        thread.join()
    return times


def cached():
    path = WORK / "large"
    make_repository(path, LARGE)
    # What an image has in its cache.
    testbed.in_pod("mkdir -p /opt/git/example.org")
    tar = f"tar -C {WORK} -cf - large/.git | {' '.join(map(str, podbridge('exec', '-i', POD, '--')))}"
    shell(f"{tar} sh -c 'mkdir -p /disk/cache/example.org && tar -C /disk/cache/example.org -xf -'")
    (path / "new").write_text("one line\n")
    commit(path, "second")
    over = f"{BIN}/podbridge {' '.join(TARGET)} ssh --git-cache /disk/cache"
    before = testbed.sent()
    url = f"{POD}:/disk/src/example.org/large"
    seconds, _ = timed(lambda: run(["git", "-C", path, "push", "-q", url, "main"], env=environment(over)))
    moved = testbed.sent() - before
    head = run(["git", "-C", path, "rev-parse", "main"]).decode().strip()
    there = testbed.in_pod("git -C /disk/src/example.org/large -c safe.directory='*' rev-parse main").decode().strip()
    if head != there:
        raise SystemExit(f"the pod has {there}, not {head}")
    testbed.table(
        f"A repository of {LARGE} MB that the image's cache has, and one new commit",
        ["seconds", "bytes on all hops together"],
        [("podbridge ssh", f"{seconds:.2f}", str(moved))],
    )
