"""This file owns where the benchmark runs: a pod with sshd, and how each peer is called."""

import json
import os
import shlex
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

WORK = Path(os.environ["BENCH_WORK"])
BIN = Path(os.environ["BENCH_BIN"])
NAMESPACE = os.environ["BENCH_NAMESPACE"]
POD = "bench"
PORT = "2222"

SETUP = [os.environ["BENCH_KUBECTL"], "--kubeconfig", os.environ["BENCH_KUBECONFIG"], "-n", NAMESPACE]
KUBECTL = [os.environ["BENCH_STOCK"], "--kubeconfig", os.environ["BENCH_KUBECONFIG"], "-n", NAMESPACE]
TARGET = ["--kubeconfig", os.environ["BENCH_KUBECONFIG"], "-n", NAMESPACE]
KEY = WORK / "key"
SSH = ["ssh", "-p", PORT, "-i", str(KEY), "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
SSH += ["-o", "LogLevel=ERROR"]

MANIFEST = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": POD},
    "spec": {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": 1,
        "containers": [
            {
                "name": "main",
                "image": "localhost/podbridge-test/debian:1",
                "imagePullPolicy": "IfNotPresent",
                "command": ["/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"],
                # Memory, so that no disk is measured; and what a workspace is on.
                "volumeMounts": [{"name": "memory", "mountPath": "/memory"}, {"name": "disk", "mountPath": "/disk"}],
            }
        ],
        "volumes": [{"name": "memory", "emptyDir": {"medium": "Memory"}}, {"name": "disk", "emptyDir": {}}],
    },
}


def run(command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, **options)
    if done.returncode:
        raise SystemExit(f"{shlex.join(map(str, command))}: {done.stderr.decode(errors='replace')}")
    return done.stdout


def shell(line, **options):
    return run(["bash", "-o", "pipefail", "-c", line], **options)


def podbridge(*arguments):
    return [BIN / "podbridge", *TARGET, *arguments]


def in_pod(line):
    return run([*SETUP, "exec", POD, "--", "sh", "-c", line])


def timed(action):
    """Seconds, and the processor's seconds of everything that ran meanwhile on this machine."""
    before, start = busy(), time.monotonic()
    action()
    return time.monotonic() - start, busy() - before


def busy():
    with open("/proc/stat") as stat:
        user, nice, system, _idle, _wait, irq, softirq, *_ = map(int, stat.readline().split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def processes(name):
    """Those of the benchmark's bridge or of the pod's agent."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            program = os.path.basename(os.readlink(entry / "exe"))
            # What was brought has a number in its name.
            if (program == name or program.startswith(f"{name}-0")) and owned(entry, name):
                yield entry
        except OSError:
            continue


def owned(entry, name):
    if name == "podbridge":
        return f"PODBRIDGE_DIR={WORK}/bridges".encode() in (entry / "environ").read_bytes().split(b"\0")
    return in_pod("readlink /proc/self/ns/pid").decode().strip() == os.readlink(entry / "ns" / "pid")


def reset_peaks():
    for name in ("podbridge", "podbridge-agent"):
        for process in processes(name):
            (process / "clear_refs").write_text("5")


def peak(name):
    """The largest resident memory of one of its processes since `reset_peaks`, MB."""
    peaks = [0.0]
    for process in processes(name):
        lines = (process / "status").read_text().splitlines()
        peaks += [int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM")]
    return max(peaks)


def sent():
    """Bytes on the loopback of the cluster's network: those for the pod, at each hop, and the cluster's own."""
    with open("/proc/net/dev") as devices:
        (line,) = [line for line in devices if line.strip().startswith("lo:")]
    return int(line.split()[1])


def address():
    return json.loads(run([*SETUP, "get", "pod", POD, "-o", "json"]))["status"]["podIP"]


@contextmanager
def pod():
    """A fresh pod with sshd; its address."""
    os.environ["PODBRIDGE_DIR"] = str(WORK / "bridges")
    run([*SETUP, "apply", "-f", "-"], input=json.dumps(MANIFEST).encode())
    try:
        run([*SETUP, "wait", "--for=condition=Ready", f"pod/{POD}", "--timeout=90s"])
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", KEY])
        key = KEY.with_suffix(".pub").read_text().strip()
        in_pod(f"mkdir -p /run/sshd /root/.ssh; ssh-keygen -A; echo '{key}' >/root/.ssh/authorized_keys")
        in_pod(f"/usr/sbin/sshd -p {PORT}")
        # Both are warm.
        for link in ("auto", "exec-proxy"):
            run(podbridge("--link", link, "exec", POD, "--", "true"))
        run([*SSH, f"root@{address()}", "true"])
        yield address()
    finally:
        run(podbridge("stop", "--all"))
        run([*SETUP, "delete", "pod", POD, "--force", "--grace-period=0"])


def table(title, columns, rows):
    print(f"\n{title}\n\n| | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)
