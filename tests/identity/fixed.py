"""Checks with one order of events, which random edits would seldom make.

Each returns the number of failures, and says them on stderr.
"""

import json
import os
import subprocess
import sys
import time

# A credential plugin that shows a code and takes its time. It counts its runs.
SLOW_PLUGIN = """#!/bin/sh
echo run >>"$0.runs"
echo 'open the page and enter the code ABCD' >&2
while [ ! -e "$0.go" ]; do sleep 0.05; done
printf '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential",'
printf '"status":{"token":"alice-slow","expirationTimestamp":"2999-01-01T00:00:00Z"}}'
"""


def say(text):
    print(text, file=sys.stderr)
    return 1


def write_config(path, cluster, user):
    config = {"apiVersion": "v1", "kind": "Config", "current-context": "x"}
    config["clusters"] = [{"name": "c", "cluster": cluster}]
    config["users"] = [{"name": "u", "user": user}]
    config["contexts"] = [{"name": "x", "context": {"cluster": "c", "user": "u", "namespace": "ci"}}]
    path.write_text(json.dumps(config))
    return str(path)


def check_verification(plugin, servers, directory, bridges):
    """With `validate_certs: true` an untrusted server gets no token, whatever the kubeconfig says."""
    cluster = {"server": servers.urls[0], "insecure-skip-tls-verify": True}
    kubeconfig = write_config(directory / "insecure", cluster, {"token": "alice-verified"})
    environment = {"PATH": os.environ["PATH"], "HOME": str(directory), "PODBRIDGE_DIR": str(bridges)}
    failures = 0
    for given, is_reached in [(True, False), ("yes", False), (None, True), (False, True), (True, False)]:
        for name in ("ansible_kubectl_validate_certs", "ansible_kubectl_verify_ssl"):
            variables = {"ansible_kubectl_kubeconfig": kubeconfig} | ({} if given is None else {name: given})
            answer = plugin.run(environment, variables)
            asked, text = bool(servers.take()), answer.get("error", "the command ran")
            if asked != is_reached or (not is_reached and not (answer["unreachable"] and "certificate" in text)):
                failures += say(f"{name}={given}: the server {'was' if asked else 'was not'} asked: {text}")
    return failures


def check_slow_plugin(podbridge, servers, directory, bridges):
    """While a credential plugin works, who waits sees its words, `status` answers, and it runs once for all."""
    program = directory / "slow-plugin"
    program.write_text(SLOW_PLUGIN)
    program.chmod(0o755)
    command = {
        "apiVersion": "client.authentication.k8s.io/v1",
        "command": str(program),
        "interactiveMode": "IfAvailable",
    }
    cluster = {"server": servers.urls[0], "certificate-authority": servers.authority}
    kubeconfig = write_config(directory / "slow", cluster, {"exec": command})
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(directory),
        "PODBRIDGE_DIR": str(bridges),
        "KUBECONFIG": kubeconfig,
    }
    words = [podbridge, "exec", "web", "--", "true"]
    waiting = [
        subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL) for _ in range(3)
    ]
    failures = 0
    try:
        for process in waiting:
            line = process.stderr.readline().decode()
            failures += say(f"a slow plugin: its words are not shown: {line}") if "ABCD" not in line else 0
        started = time.monotonic()
        status = subprocess.run(
            [podbridge, "status", "web"], env=environment, capture_output=True, timeout=60, check=False
        )
        took = time.monotonic() - started
        # Without an answer of its own it would wait for the plugin, which waits for this test.
        if status.returncode or took > 10:
            failures += say(f"a slow plugin: status ends with {status.returncode} after {took:.1f} s")
    finally:
        (directory / "slow-plugin.go").touch()
    for process in waiting:
        text = process.communicate(timeout=60)[1].decode()
        if process.returncode != 228:
            failures += say(f"a slow plugin: exec ends with {process.returncode} {text}")
    users = {user for _, user, _ in servers.take()}
    runs = (directory / "slow-plugin.runs").read_text().count("run")
    if users != {"alice"} or runs != 1:
        failures += say(f"a slow plugin: it ran {runs} times for 3 commands, which asked as {users}")
    return failures
