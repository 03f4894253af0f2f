"""Testbed of the suite: pods with sshd, the command lines of the peers, and measurements of processes."""

import json
import os
import resource
import shlex
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from suite.rows import Failed
from suite.settings import BIN, CLUSTER_KUBECTL, KUBECONFIG, NAMESPACE, STOCK_KUBECTL, WORK

PROC = Path("/proc")
POD = "bench"
PORT = "2222"
# Seconds after which a command counts as failed.
TIMEOUT = 300

TARGET = ["--kubeconfig", KUBECONFIG, "-n", NAMESPACE]
SETUP = [CLUSTER_KUBECTL, *TARGET]
KUBECTL = [STOCK_KUBECTL, *TARGET]
KEY = WORK / "key"
SSH_OPTIONS = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
SSH = ["ssh", "-p", PORT, "-i", str(KEY), *SSH_OPTIONS]

# The first process starts sshd, reaps, and ends at once.
FIRST_PROCESS = """mkdir -p /run/sshd /root/.ssh; echo "$KEY" >/root/.ssh/authorized_keys
[ -e /etc/ssh/ssh_host_ed25519_key ] || ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key
/usr/sbin/sshd -p 2222 -o MaxStartups=200; trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"""


def manifest(name, key):
    """Returns a pod with sshd, a volume in memory, so that the disk does not limit the rate, and one on disk."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "podbridge-bench"}},
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 1,
            "containers": [
                {
                    "name": "main",
                    "image": os.environ.get("PODBRIDGE_TEST_DEBIAN_IMAGE") or "localhost/podbridge-test/debian:1",
                    "imagePullPolicy": "IfNotPresent",
                    "env": [{"name": "KEY", "value": key}],
                    "command": ["/bin/sh", "-c", FIRST_PROCESS],
                    "volumeMounts": [
                        {"name": "memory", "mountPath": "/memory"},
                        {"name": "disk", "mountPath": "/disk"},
                    ],
                }
            ],
            "volumes": [
                {"name": "memory", "emptyDir": {"medium": "Memory"}},
                {"name": "disk", "emptyDir": {}},
            ],
        },
    }


def run(command, **options):
    """Runs a command and returns its stdout; raises Failed with its stderr if it fails."""
    options.setdefault("timeout", TIMEOUT)
    if "input" not in options:
        options.setdefault("stdin", subprocess.DEVNULL)
    try:
        done = subprocess.run([str(word) for word in command], capture_output=True, **options)
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{shlex.join(map(str, command))}: not within {options['timeout']} s") from error
    if done.returncode:
        raise Failed(f"{shlex.join(map(str, command))}: {done.stderr.decode(errors='replace')}")
    return done.stdout


def shell(line, **options):
    return run(["bash", "-o", "pipefail", "-c", line], **options)


def podbridge(*arguments):
    """Returns the command line of podbridge for the test cluster."""
    return [BIN / "podbridge", *TARGET, *arguments]


def exec_in_pod(line, pod=POD):
    return run([*SETUP, "exec", pod, "--", "sh", "-c", line])


def measure_action(action):
    """Runs `action()`; returns its wall clock seconds and the processor seconds of the whole machine meanwhile."""
    before, start = cpu_seconds(), time.monotonic()
    action()
    return time.monotonic() - start, cpu_seconds() - before


def children_seconds():
    """Returns the processor seconds of all processes that this one has waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def cpu_seconds():
    """Returns the processor seconds of this machine since its start."""
    with open("/proc/stat") as stat:
        user, nice, system, _idle, _wait, irq, softirq, *_ = map(int, stat.readline().split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def all_processes():
    """Yields the /proc directories of all processes."""
    return (entry for entry in PROC.iterdir() if entry.name.isdigit())


def program(process):
    """Returns the name of a process's program; empty if it has ended."""
    try:
        return os.path.basename(os.readlink(process / "exe"))
    except OSError:
        return ""


def marked_processes(directory):
    """Returns the /proc directories of the bridges whose sockets are in `directory`."""
    mark, found = f"PODBRIDGE_DIR={directory}".encode(), []
    for entry in all_processes():
        with suppress(OSError):
            if program(entry) == "podbridge" and mark in (entry / "environ").read_bytes().split(b"\0"):
                found.append(entry)
    return found


def bridges():
    """Returns the /proc directories of this run's bridges."""
    return marked_processes(WORK / "bridges")


def in_namespace(identity):
    """Returns the /proc directories of the processes of a PID namespace, given as the link of /proc/PID/ns/pid."""
    found = []
    for entry in all_processes():
        with suppress(OSError):
            if os.readlink(entry / "ns" / "pid") == identity:
                found.append(entry)
    return found


def loopback_bytes():
    """Returns the bytes on the loopback of the cluster's network namespace: traffic for the pod at each hop, and the
    cluster's own traffic.
    """
    with open("/proc/net/dev") as devices:
        (line,) = [line for line in devices if line.strip().startswith("lo:")]
    return int(line.split()[1])


def public_key():
    """Returns the public key of this run; makes the pair first."""
    if not KEY.exists():
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", KEY])
    return KEY.with_suffix(".pub").read_text().strip()


@contextmanager
def pods(names):
    """Starts pods with sshd, yields {name: address}, and deletes them."""
    key = public_key()
    items = [manifest(name, key) for name in names]
    try:
        run(
            [*SETUP, "apply", "-f", "-"],
            input=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}).encode(),
        )
        run([*SETUP, "wait", "--for=condition=Ready", *(f"pod/{name}" for name in names), "--timeout=290s"])
        listed = json.loads(run([*SETUP, "get", "pods", "-l", "app=podbridge-bench", "-o", "json"]))["items"]
        addresses = {pod["metadata"]["name"]: pod["status"]["podIP"] for pod in listed}
        yield {name: addresses[name] for name in names}
    finally:
        run([*SETUP, "delete", "pod", "--force", "--grace-period=0", "--ignore-not-found", *names])


def wait_for_sshd(address):
    """Waits until the pod's sshd answers."""
    deadline = time.monotonic() + 60
    while True:
        try:
            run([*SSH, f"root@{address}", "true"])
            return
        except Failed:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def stop_bridges():
    run(podbridge("stop", "--all"))
