"""Runs playbooks: one process of ansible-playbook with one peer. The callback `bench_times` times the plays."""

import json
import os
import signal
import subprocess
import uuid
from dataclasses import dataclass

from suite import settings, testbed
from suite.rows import Failed
from suite.settings import ROOT, WORK

PYTHON = "/usr/bin/python3"


def environment(peer):
    """Returns the environment of ansible-playbook; nothing of the caller's but PATH."""
    return {
        "PATH": f"{WORK}/bin:{os.environ['PATH']}",
        "HOME": str(WORK),
        "LC_ALL": "C.UTF-8",
        "PODBRIDGE_DIR": str(WORK / "bridges"),
        "PODBRIDGE_EXECUTABLE": str(settings.BIN / "podbridge"),
        "ANSIBLE_HOME": str(WORK / "ansible"),
        "ANSIBLE_CALLBACK_PLUGINS": str(ROOT / "bench/plugins/callback"),
        "ANSIBLE_STDOUT_CALLBACK": "bench_times",
        "ANSIBLE_HOST_KEY_CHECKING": "false",
        "ANSIBLE_DEPRECATION_WARNINGS": "false",
        "ANSIBLE_RETRY_FILES_ENABLED": "false",
        # Many pods at once answer slowly on a small machine.
        "ANSIBLE_TIMEOUT": "60",
        **peer.environment,
    }


def play(name, tasks, **keywords):
    return {"name": name, "hosts": "all", "gather_facts": False, "tasks": tasks, **keywords}


@dataclass
class Outcome:
    """What a run took: {name of the play: seconds}, and the processor seconds of ansible-playbook and its children.

    `results` has the results of all tasks if the caller asked for them.
    """

    seconds: dict
    processor: float
    results: list


def run(core, peer, pods, plays, forks=5, timeout=300, keep=False):
    """Runs the plays on `pods` ({name: address}); raises Failed if a task fails. `keep` keeps the results."""
    hosts = {name: peer.host(name, address) for name, address in pods.items()}
    directory = WORK / "plays" / uuid.uuid4().hex
    directory.mkdir(parents=True)
    inventory, playbook, times = (directory / name for name in ("hosts.json", "play.json", "times.json"))
    inventory.write_text(json.dumps({"all": {"hosts": hosts, "vars": {"ansible_python_interpreter": PYTHON}}}))
    playbook.write_text(json.dumps(plays))
    command = [f"{core}/bin/ansible-playbook", "-f", str(forks), "-i", str(inventory), str(playbook)]
    before = testbed.children_seconds()
    with open(directory / "output", "w+b") as output:
        process = subprocess.Popen(
            command,
            env=environment(peer) | {"BENCH_TIMES": str(times), "BENCH_KEEP": "1" if keep else ""},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise Failed(f"not within {timeout} s") from None
        finally:
            end_group(process)
        spent = testbed.children_seconds() - before
        output.seek(0)
        text = output.read().decode(errors="replace")
    try:
        result = json.loads(times.read_text())
    except FileNotFoundError:
        raise Failed(f"ansible-playbook ended with {process.returncode}: {text[-500:]}") from None
    if result["failures"]:
        raise Failed("{play}: {message}".format(**result["failures"][0]))
    if process.returncode:
        raise Failed(f"ansible-playbook ended with {process.returncode}: {text[-500:]}")
    seconds = {each["name"]: each["ended"] - each["started"] for each in result["plays"]}
    return Outcome(seconds, spent, result["results"])


def end_group(process):
    """Ends what is left of the playbook's process group."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
