"""Benchmark of a tree of many small files: the first copy, and a second one when nothing has changed."""

import os
import random
from pathlib import Path

from files import testbed
from files.testbed import KUBECTL, POD, SSH, WORK, measure_action, podbridge, run, shell

FILES = int(os.environ.get("FILES") or 50_000)
PER_DIRECTORY = 100
ROUNDS = 3
API = podbridge("--link", "exec-proxy")


def sources():
    """Returns source text, as workspaces contain it: the one of Python's standard library."""
    library = Path(os.__file__).parent
    return b"".join(file.read_bytes() for file in sorted(library.glob("[a-r]*/**/*.py")))


def make_tree(root, content):
    """Makes FILES files with parts of `content`, or with random bytes if it is empty."""
    rng = random.Random(7)
    for number in range(FILES):
        directory = root / f"d{number // PER_DIRECTORY // 25}" / f"e{number // PER_DIRECTORY}"
        if number % PER_DIRECTORY == 0:
            directory.mkdir(parents=True)
        size = rng.randint(1000, 10_000)
        at = rng.randrange(len(content) - size) if content else 0
        data = content[at : at + size] if content else rng.randbytes(size)
        (directory / f"file{number}.txt").write_bytes(data)


def bench(address):
    for name, content in (("source text", sources()), ("random bytes", b"")):
        root = WORK / "tree" / name.split()[0]
        make_tree(root, content)
        compare(name, root, address)


def push_methods(root, there, address):
    """Returns {name: action} for copies into the pod."""
    kubectl, ssh = " ".join(map(str, KUBECTL)), " ".join(SSH)
    extract = f"sh -c 'mkdir -p {there}/tar && tar -C {there}/tar -xf -'"
    return {
        "podbridge sync": lambda: run(podbridge("sync", "-q", root, f"{POD}:{there}/sync")),
        "podbridge sync through the API server": lambda: run([*API, "sync", "-q", root, f"{POD}:{there}/sync-api"]),
        "tar over kubectl exec": lambda: shell(f"tar -C {root} -cf - . | {kubectl} exec -i {POD} -- {extract}"),
        "rsync over ssh": lambda: run(["rsync", "-a", "-e", ssh, f"{root}/", f"root@{address}:{there}/rsync"]),
        "rsync -z over ssh": lambda: run(["rsync", "-az", "-e", ssh, f"{root}/", f"root@{address}:{there}/rsync-z"]),
    }


def pull_methods(there, back, address):
    """Returns {name: action} for copies out of the pod."""
    kubectl, ssh = " ".join(map(str, KUBECTL)), " ".join(SSH)
    pack = f"{kubectl} exec {POD} -- tar -C {there}/sync -cf - ."
    remote = f"root@{address}:{there}/sync/"
    return {
        "podbridge sync": lambda: run(podbridge("sync", "-q", f"{POD}:{there}/sync", back / "sync")),
        "podbridge sync through the API server": lambda: run([*API, "sync", "-q", f"{POD}:{there}/sync", back / "api"]),
        "tar over kubectl exec": lambda: shell(f"mkdir {back}/tar && {pack} | tar -C {back}/tar -xf -"),
        "rsync over ssh": lambda: run(["rsync", "-a", "-e", ssh, remote, f"{back}/rsync"]),
        "rsync -z over ssh": lambda: run(["rsync", "-az", "-e", ssh, remote, f"{back}/rsync-z"]),
    }


def compare(name, root, address):
    """Runs each method ROUNDS times and prints the best times."""
    kind = root.name
    first, again, back = {}, {}, {}
    testbed.reset_peaks()
    for number in range(ROUNDS):
        there, here = f"/disk/{kind}-{number}", WORK / f"{kind}-{number}"
        testbed.exec_in_pod(f"mkdir {there}")
        here.mkdir()
        # Nothing is deleted between the rounds, because ext4 searches slowly past inodes that were freed minutes ago.
        run_rotated(number, push_methods(root, there, address), first)
        unchanged = push_methods(root, there, address)
        unchanged.pop("tar over kubectl exec")
        run_rotated(number, unchanged, again)
        testbed.exec_in_pod(f"diff -r {there}/sync {there}/rsync")
        run_rotated(number, pull_methods(there, here, address), back)
        run(["diff", "-r", root, here / "sync"])
    peaks = testbed.peak("podbridge"), testbed.peak("podbridge-agent")

    def best(times, method):
        return "{:.2f} s ({:.1f})".format(*min(times[method])) if method in times else ""

    testbed.table(
        f"{FILES} files of 1 to 10 kB, {name}: seconds, the best of {ROUNDS} (and the machine's processor seconds); "
        f"largest process: bridge {peaks[0]:.0f} MB resident, agent {peaks[1]:.0f} MB",
        ["into the pod", "again, unchanged", "out of the pod"],
        [(method, best(first, method), best(again, method), best(back, method)) for method in first],
    )


def run_rotated(number, methods, times):
    """Runs all methods and adds their times; each round starts with another method, so that a slow phase of the machine
    and a cold cache affect all of them.
    """
    names = list(methods)
    for name in names[number % len(names) :] + names[: number % len(names)]:
        os.sync()
        times.setdefault(name, []).append(measure_action(methods[name]))
