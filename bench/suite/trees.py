"""Trees of many small files: the first copy, a second one when nothing has changed, and the way back."""

import os
import random
import shutil
from pathlib import Path

from suite import clock, settings, testbed
from suite.rows import say
from suite.settings import NAMESPACE, WORK
from suite.testbed import KUBECTL, POD, SSH, measure_action, podbridge, run, shell

PER_DIRECTORY = 100


def sources():
    """Returns source text, as workspaces contain it: the one of Python's standard library."""
    library = Path(os.__file__).parent
    return b"".join(file.read_bytes() for file in sorted(library.glob("[a-r]*/**/*.py")))


def make_tree(root, files, content):
    """Makes files of 1 to 10 kB with parts of `content`."""
    rng = random.Random(7)
    for number in range(files):
        directory = root / f"d{number // PER_DIRECTORY // 25}" / f"e{number // PER_DIRECTORY}"
        if number % PER_DIRECTORY == 0:
            directory.mkdir(parents=True)
        size = rng.randint(1000, 10_000)
        at = rng.randrange(len(content) - size)
        (directory / f"file{number}.txt").write_bytes(content[at : at + size])


def measure(rows, areas, address):
    content = sources() if {"files", "trees"} & set(areas) else b""
    if "files" in areas:
        compare(rows, "files-1000", 1000, content, address, settings.ROUNDS)
    if "trees" in areas:
        compare(rows, "files-50000", int(os.environ.get("BENCH_FILES") or 50_000), content, address, 2)


def push_methods(root, there, address):
    """Returns {(peer, link): action} for copies into the pod."""
    kubectl, ssh = " ".join(map(str, KUBECTL)), " ".join(SSH)
    extract = f"sh -c 'mkdir -p {there}/tar && tar -C {there}/tar -xf -'"
    return {
        ("podbridge", "direct"): lambda: sync("direct", root, f"{POD}:{there}/direct"),
        ("podbridge", "exec-proxy"): lambda: sync("exec-proxy", root, f"{POD}:{there}/proxy"),
        ("tar", "api"): lambda: shell(f"tar -C {root} -cf - . | {kubectl} exec -i {POD} -- {extract}"),
        ("rsync", "ssh"): lambda: run(["rsync", "-a", "-e", ssh, f"{root}/", f"root@{address}:{there}/rsync"]),
        ("kubectl-cp", "api"): lambda: run([*KUBECTL, "cp", root, f"{NAMESPACE}/{POD}:{there}/cp"]),
    }


def pull_methods(there, here, address):
    """Returns {(peer, link): action} for copies out of the pod."""
    kubectl, ssh = " ".join(map(str, KUBECTL)), " ".join(SSH)
    pack = f"{kubectl} exec {POD} -- tar -C {there}/direct -cf - ."
    remote = f"root@{address}:{there}/direct/"
    return {
        ("podbridge", "direct"): lambda: sync("direct", f"{POD}:{there}/direct", here / "direct"),
        ("podbridge", "exec-proxy"): lambda: sync("exec-proxy", f"{POD}:{there}/direct", here / "proxy"),
        ("tar", "api"): lambda: shell(f"mkdir {here}/tar && {pack} | tar -C {here}/tar -xf -"),
        ("rsync", "ssh"): lambda: run(["rsync", "-a", "-e", ssh, remote, f"{here}/rsync"]),
        ("kubectl-cp", "api"): lambda: run([*KUBECTL, "cp", f"{NAMESPACE}/{POD}:{there}/direct", here / "cp"]),
    }


def sync(link, source, target):
    run(podbridge("--link", link, "sync", "-q", source, target))


def compare(rows, name, files, content, address, rounds):
    """Runs each method `rounds` times."""
    root = WORK / name
    make_tree(root, files, content)
    for number in clock.rounds(rounds):
        say(f"{name}: round {number + 1} of {rounds}")
        there, here = f"/disk/{name}-{number}", WORK / f"{name}-{number}"
        testbed.exec_in_pod(f"mkdir {there}")
        here.mkdir()
        # Nothing is deleted in the pod between the rounds, because ext4 searches slowly past inodes that were freed
        # minutes ago.
        push = push_methods(root, there, address)
        run_rotated(rows, f"{name}-in", number, push)
        if name == "files-50000":
            again = {key: push[key] for key in push if key[0] in ("podbridge", "rsync")}
            run_rotated(rows, f"{name}-again", number, again)
        testbed.exec_in_pod(f"diff -r {there}/direct {there}/rsync")
        run_rotated(rows, f"{name}-out", number, pull_methods(there, here, address))
        run(["diff", "-r", root, here / "direct"])
        shutil.rmtree(here)
    shutil.rmtree(root)
    testbed.exec_in_pod(f"rm -rf /disk/{name}-*")


def run_rotated(rows, workload, number, methods):
    """Runs all methods; each round starts with another one, so that a slow phase and a cold cache affect all."""
    keys = list(methods)
    number %= len(keys)
    for key in keys[number:] + keys[:number]:
        os.sync()
        rows.measure([workload], *key, lambda key=key: [measure_action(methods[key])[0]])
