"""Scenarios about Zuul's sandbox: it shows the plugin wherever that is installed, and nothing of other builds."""

import os
import shutil
import subprocess
from contextlib import contextmanager

from tier import settings
from tier.build import playbook
from tier.executor import ANSIBLE_VERSION
from tier.scenarios.executor import stock_execs
from tier.session import require_podbridge, slot_sockets

PLUGINS = settings.ROOT / "ansible" / "plugins" / "connection"


def loading(session):
    """Plugin found in every directory where it may be installed, by trusted and untrusted playbooks."""
    require_podbridge()
    node = session.node()
    del os.environ["ANSIBLE_CONNECTION_PLUGINS"]
    try:
        with overlay("/usr/share") as share:
            shutil.copytree(PLUGINS, share / "ansible" / "plugins" / "connection")
            for trusted in (False, True):
                expect_only_podbridge(run_hello(session, node, trusted))
        expect_only_podbridge(run_with_role(session, node), after="ROLE")
        collections = settings.SHIM / "collections" / "ansible_collections" / "podbridge"
        collections.mkdir(parents=True)
        shutil.copytree(settings.ROOT / "ansible", collections / "zuul", ignore=shutil.ignore_patterns("tests"))
        os.environ["ANSIBLE_COLLECTIONS_PATH"] = str(collections.parents[1])
        expect_only_podbridge(session.run([node], "by_full_name"), after="FULL NAME")
    finally:
        os.environ["ANSIBLE_CONNECTION_PLUGINS"] = str(PLUGINS)
        os.environ.pop("ANSIBLE_COLLECTIONS_PATH", None)


@contextmanager
def overlay(directory):
    """Mounts a writable layer over a directory of the system and yields it; `../run` has made a mount namespace."""
    upper, work = settings.WORK / "upper", settings.WORK / "overlay"
    upper.mkdir()
    work.mkdir()
    options = f"lowerdir={directory},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, directory], check=True)
    try:
        yield upper
    finally:
        subprocess.run(["umount", directory], check=True)


def run_hello(session, node, trusted):
    build = session.build([node], run=[playbook("playbooks/hello.yaml", "org/project", trusted=trusted)])
    build.play()
    assert build.result == "SUCCESS", f"the result is {build.result} ({build.detail})"
    return build


def run_with_role(session, node):
    """Runs a playbook of a trusted project with a role that contains the plugin."""
    project = settings.WORK / "with-role"
    shutil.copytree(settings.PROJECT, project)
    shutil.copytree(PLUGINS, project / "roles" / "plugin" / "connection_plugins")
    run = [playbook("playbooks/in_role.yaml", "org/project", trusted=True)]
    build = session.build([node], run=run, projects={"org/project": project})
    build.play()
    assert build.result == "SUCCESS", f"the result is {build.result} ({build.detail})"
    return build


def expect_only_podbridge(build, after=None):
    """Asserts that the stock plugin ran no task; `after` names the play from which on this holds."""
    lines = (settings.WORK / "executor.log").read_text(errors="replace").splitlines()
    mine = [line for line in lines if build.build_request.uuid in line]
    if after:
        first = next(at for at, line in enumerate(mine) if f"PLAY [{after}]" in line)
        mine = mine[first:]
        assert any("<" in line and "> EXEC /bin/sh" in line or "> EXEC b'" in line for line in mine), (
            "no command was run"
        )
    else:
        assert not stock_execs(build), stock_execs(build)[:2]
    stock = [line for line in mine if "EXEC [" in line]
    assert not stock, stock[:2]


def isolation(session):
    """Isolation of two builds on one host: neither sees or reaches the sockets of the other."""
    require_podbridge()
    user = {"securityContext": {"runAsUser": 1000, "runAsGroup": 1000}}
    one, other = (session.build([session.node(name, **user)], "hello") for name in ("one", "other"))
    (socket,) = slot_sockets(other)
    script = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    python = str(settings.ANSIBLE / ANSIBLE_VERSION / "bin" / "python")
    connect = (python, "-c", script, socket)
    subprocess.run(connect, check=True)
    assert one.run_in_sandbox(*connect)[1] != 0, "a build has reached the bridge of another build"
    assert one.run_in_sandbox("test", "-e", other.jobdir.root)[1] != 0, "a build sees the directory of another build"
    own = slot_sockets(one)
    assert one.run_in_sandbox(python, "-c", script, *own)[1] == 0, "a build does not reach its own bridge"
