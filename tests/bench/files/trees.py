"""This file owns the benchmark of a tree of many small files: the first copy, and one more when nothing has changed."""

import os
import random

from files import place
from files.place import KUBECTL, POD, SSH, WORK, podbridge, run, shell, timed

FILES = int(os.environ.get("FILES") or 50_000)
PER_DIRECTORY = 100


def make_tree(root):
    rng = random.Random(7)
    for number in range(FILES):
        directory = root / f"d{number // PER_DIRECTORY // 25}" / f"e{number // PER_DIRECTORY}"
        if number % PER_DIRECTORY == 0:
            directory.mkdir(parents=True)
        (directory / f"file{number}.txt").write_bytes(rng.randbytes(rng.randint(1000, 10_000)))


def bench(address):
    root = WORK / "tree"
    make_tree(root)
    kubectl, ssh = " ".join(map(str, KUBECTL)), " ".join(SSH)
    tar = f"tar -C {root} -cf - . | {kubectl} exec -i {POD} -- sh -c 'mkdir -p /disk/tar && tar -C /disk/tar -xf -'"
    ways = {
        "podbridge sync": lambda: run(podbridge("sync", "-q", root, f"{POD}:/disk/sync")),
        "tar over kubectl exec": lambda: shell(tar),
        "rsync over ssh": lambda: run(["rsync", "-a", "-e", ssh, f"{root}/", f"root@{address}:/disk/rsync"]),
    }
    place.reset_peaks()
    first = {name: timed(action) for name, action in ways.items()}
    peaks = place.peak("podbridge"), place.peak("podbridge-agent")
    again = {name: timed(action) for name, action in ways.items() if not name.startswith("tar")}
    place.in_pod("diff -r /disk/sync /disk/rsync")
    back = {
        "podbridge sync": timed(lambda: run(podbridge("sync", "-q", f"{POD}:/disk/sync", WORK / "sync"))),
        "tar over kubectl exec": timed(
            lambda: shell(
                f"mkdir {WORK}/tar && {kubectl} exec {POD} -- tar -C /disk/sync -cf - . | tar -C {WORK}/tar -xf -"
            )
        ),
        "rsync over ssh": timed(
            lambda: run(["rsync", "-a", "-e", ssh, f"root@{address}:/disk/sync/", f"{WORK}/rsync"])
        ),
    }
    run(["diff", "-r", root, WORK / "sync"])

    def seconds(times, name):
        return f"{times[name][0]:.2f} s ({times[name][1]:.1f})" if name in times else ""

    place.table(
        f"{FILES} files of 1 to 10 kB, seconds (processor seconds of the whole machine); largest process: bridge "
        f"{peaks[0]:.0f} MB resident, agent {peaks[1]:.0f} MB",
        ["into the pod", "again, unchanged", "out of the pod"],
        [(name, seconds(first, name), seconds(again, name), seconds(back, name)) for name in ways],
    )
