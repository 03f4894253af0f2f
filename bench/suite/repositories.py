"""Git: many repositories pushed at once while commands run, and one that the image has cached."""

import os
import shutil
import subprocess
import threading
import time

from suite import clock, testbed, warm_clients
from suite.rows import Failed, say
from suite.settings import BIN, WORK
from suite.testbed import POD, SSH, TARGET, measure_action, podbridge, run, shell

REPOSITORIES = int(os.environ.get("BENCH_REPOSITORIES") or 50)
LARGE = 500
ROUNDS = 2


def measure(rows, address):
    many(rows, address)
    rows.measure(["push-cached"], "podbridge", "direct", cached)


def make_repository(path, megabytes):
    run(["git", "init", "-q", "-b", "main", path])
    for name in range(max(1, int(megabytes))):
        (path / f"blob{name}").write_bytes(os.urandom(int(min(megabytes, 1) * 1e6)))
    commit(path, "first")


def commit(path, message):
    git = ["git", "-C", path, "-c", "user.name=bench", "-c", "user.email=bench@localhost"]
    run([*git, "add", "-A"])
    run([*git, "commit", "-q", "-m", message])


def environment(ssh):
    return {**os.environ, "GIT_SSH_COMMAND": ssh}


def push_all(urls, ssh):
    pushes = [
        subprocess.Popen(
            ["git", "-C", WORK / name, "push", "-q", url, "main"],
            env=environment(ssh),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for name, url in urls.items()
    ]
    for push in pushes:
        _, stderr = push.communicate()
        if push.returncode:
            raise Failed(stderr.decode())


def many(rows, address):
    """Repositories pushed at once, and `true` over an open connection meanwhile."""
    names = [f"repository{number}" for number in range(REPOSITORIES)]
    for name in names:
        make_repository(WORK / name, 2)
    for number in clock.rounds(ROUNDS):
        for link in ("direct", "exec-proxy"):
            say(f"push-50: round {number + 1} of {ROUNDS}, podbridge, {link}")
            command = f"{BIN}/podbridge {' '.join(TARGET)} --link {link} ssh"
            directory = f"/disk/pushed-{link}-{number}"
            urls = {name: f"{POD}:{directory}/{name}" for name in names}
            workloads = ["push-50", "push-50-true"]
            rows.measure(
                workloads,
                "podbridge",
                link,
                lambda link=link, urls=urls, command=command: timed(warm_clients.Bridge(link), urls, command),
            )
        say(f"push-50: round {number + 1} of {ROUNDS}, ssh")
        directory = f"/disk/pushed-ssh-{number}"
        testbed.exec_in_pod(
            f"mkdir {directory}; cd {directory}; for n in {' '.join(names)}; do git init -q --bare $n; done"
        )
        urls = {name: f"root@{address}:{directory}/{name}" for name in names}
        rows.measure(
            ["push-50", "push-50-true"],
            "git-ssh",
            "ssh",
            lambda urls=urls: timed(warm_clients.Ssh(address), urls, " ".join(SSH)),
        )
    for name in names:
        shutil.rmtree(WORK / name)
    testbed.exec_in_pod("rm -rf /disk/pushed-*")


def timed(client, urls, ssh):
    """Returns the seconds of the pushes, and the 99th percentile of the client's `true` meanwhile in milliseconds."""
    seconds = []
    try:
        times = sorted(latencies(client, lambda: seconds.append(measure_action(lambda: push_all(urls, ssh))[0])))
    finally:
        client.close()
    return [seconds[0], times[int(len(times) * 0.99)]]


def latencies(client, action):
    """Returns the latency of each `true` while `action()` runs, in milliseconds."""
    times, errors, finished = [], [], threading.Event()

    def ask():
        # Highest priority for this thread, so that the times do not contain its own waits for a core.
        os.setpriority(os.PRIO_PROCESS, 0, -20)
        try:
            while not finished.is_set():
                start = time.monotonic()
                client.true()
                times.append((time.monotonic() - start) * 1000)
        except (Failed, OSError) as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        action()
    finally:
        finished.set()
        thread.join()
    if errors:
        raise Failed(f"true: {errors[0]}")
    return times


def cached():
    """A repository of LARGE MB that the image's cache has, and one new commit: seconds of the push."""
    path = WORK / "large-repository"
    make_repository(path, LARGE)
    # Put the repository into the cache that an image would have.
    tar = f"tar -C {WORK} -cf - large-repository/.git | {' '.join(map(str, podbridge('exec', '-i', POD, '--')))}"
    shell(f"{tar} sh -c 'mkdir -p /disk/cache/example.org && tar -C /disk/cache/example.org -xf -'")
    (path / "new").write_text("one line\n")
    commit(path, "second")
    command = f"{BIN}/podbridge {' '.join(TARGET)} --link direct ssh --git-cache /disk/cache"
    there = "/disk/src/example.org/large-repository"
    seconds, _ = measure_action(
        lambda: run(["git", "-C", path, "push", "-q", f"{POD}:{there}", "main"], env=environment(command))
    )
    head = run(["git", "-C", path, "rev-parse", "main"]).decode().strip()
    pushed = testbed.exec_in_pod(f"git -C {there} -c safe.directory='*' rev-parse main").decode().strip()
    shutil.rmtree(path)
    if head != pushed:
        raise Failed(f"the pod has {pushed}, not {head}")
    return [seconds]
