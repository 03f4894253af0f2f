"""Testbed of the benchmarks: a pod with sshd, the command lines of the peers, and measurements of processes. `../run`
passes its settings in BENCH_* variables.
"""

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
                # A volume in memory, so that the disk does not limit the rate, and one on disk, as a workspace has.
                "volumeMounts": [{"name": "memory", "mountPath": "/memory"}, {"name": "disk", "mountPath": "/disk"}],
            }
        ],
        "volumes": [{"name": "memory", "emptyDir": {"medium": "Memory"}}, {"name": "disk", "emptyDir": {}}],
    },
}


def run(command, **options):
    """Runs a command and returns its stdout; raises SystemExit with its stderr if it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, **options)
    if done.returncode:
        raise SystemExit(f"{shlex.join(map(str, command))}: {done.stderr.decode(errors='replace')}")
    return done.stdout


def shell(line, **options):
    return run(["bash", "-o", "pipefail", "-c", line], **options)


def podbridge(*arguments):
    """Returns the command line of podbridge for the test cluster."""
    return [BIN / "podbridge", *TARGET, *arguments]


def exec_in_pod(line):
    return run([*SETUP, "exec", POD, "--", "sh", "-c", line])


def measure_action(action):
    """Runs `action()`; returns its wall clock seconds and the processor seconds of the whole machine meanwhile."""
    before, start = cpu_seconds(), time.monotonic()
    action()
    return time.monotonic() - start, cpu_seconds() - before


def cpu_seconds():
    """Returns the processor seconds of this machine since its start."""
    with open("/proc/stat") as stat:
        user, nice, system, _idle, _wait, irq, softirq, *_ = map(int, stat.readline().split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def processes(name):
    """Yields the /proc directories of the benchmark's bridge (podbridge) or of the pod's agent (podbridge-agent)."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            program = os.path.basename(os.readlink(entry / "exe"))
            # An injected agent has a number in its name.
            if (program == name or program.startswith(f"{name}-0")) and belongs_to_bench(entry, name):
                yield entry
        except OSError:
            continue


def belongs_to_bench(entry, name):
    """Returns whether a process is this benchmark's bridge, or runs in its pod."""
    if name == "podbridge":
        return f"PODBRIDGE_DIR={WORK}/bridges".encode() in (entry / "environ").read_bytes().split(b"\0")
    return exec_in_pod("readlink /proc/self/ns/pid").decode().strip() == os.readlink(entry / "ns" / "pid")


def reset_peaks():
    """Resets the peak of the resident memory of bridge and agent."""
    for name in ("podbridge", "podbridge-agent"):
        for process in processes(name):
            (process / "clear_refs").write_text("5")


def peak(name):
    """Returns the peak resident memory in MB of the largest of these processes, since `reset_peaks`."""
    peaks = [0.0]
    for process in processes(name):
        lines = (process / "status").read_text().splitlines()
        peaks += [int(line.split()[1]) / 1000 for line in lines if line.startswith("VmHWM")]
    return max(peaks)


def loopback_bytes():
    """Returns the bytes on the loopback of the cluster's network namespace: traffic for the pod at each hop, and the
    cluster's own traffic.
    """
    with open("/proc/net/dev") as devices:
        (line,) = [line for line in devices if line.strip().startswith("lo:")]
    return int(line.split()[1])


def address():
    return json.loads(run([*SETUP, "get", "pod", POD, "-o", "json"]))["status"]["podIP"]


@contextmanager
def pod():
    """Starts a new pod with sshd, yields its address, and deletes it."""
    os.environ["PODBRIDGE_DIR"] = str(WORK / "bridges")
    run([*SETUP, "apply", "-f", "-"], input=json.dumps(MANIFEST).encode())
    try:
        run([*SETUP, "wait", "--for=condition=Ready", f"pod/{POD}", "--timeout=90s"])
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", KEY])
        key = KEY.with_suffix(".pub").read_text().strip()
        exec_in_pod(f"mkdir -p /run/sshd /root/.ssh; ssh-keygen -A; echo '{key}' >/root/.ssh/authorized_keys")
        exec_in_pod(f"/usr/sbin/sshd -p {PORT}")
        # Open the connections of both links and the one of ssh.
        for link in ("auto", "exec-proxy"):
            run(podbridge("--link", link, "exec", POD, "--", "true"))
        run([*SSH, f"root@{address()}", "true"])
        yield address()
    finally:
        run(podbridge("stop", "--all"))
        run([*SETUP, "delete", "pod", POD, "--force", "--grace-period=0"])


def table(title, columns, rows):
    """Prints a table in Markdown; each row is a list of texts."""
    print(f"\n{title}\n\n| | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)
