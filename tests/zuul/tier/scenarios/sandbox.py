"""This file owns what Zuul's sandbox shows: the plugin, wherever it is installed, and of other builds nothing."""

import os
import shutil
import subprocess
from contextlib import contextmanager

from tier import settings
from tier.build import playbook
from tier.executor import ANSIBLE_VERSION
from tier.scenarios.executor import stock_execs
from tier.session import only_podbridge

PLUGINS = settings.ROOT / "ansible" / "plugins" / "connection"


def loading(session):
    """The plugin is found in every place where it may be installed, by trusted and untrusted playbooks."""
    only_podbridge()
    node = session.node()
    del os.environ["ANSIBLE_CONNECTION_PLUGINS"]
    try:
        with overlaid("/usr/share") as share:
            shutil.copytree(PLUGINS, share / "ansible" / "plugins" / "connection")
            for trusted in (False, True):
                expect_ours(hello(session, node, trusted))
        expect_ours(in_role(session, node), after="ROLE")
        collections = settings.SHIM / "collections" / "ansible_collections" / "podbridge"
        collections.mkdir(parents=True)
        shutil.copytree(settings.ROOT / "ansible", collections / "zuul", ignore=shutil.ignore_patterns("tests"))
        os.environ["ANSIBLE_COLLECTIONS_PATH"] = str(collections.parents[1])
        expect_ours(session.run([node], "by_full_name"), after="FULL NAME")
    finally:
        os.environ["ANSIBLE_CONNECTION_PLUGINS"] = str(PLUGINS)
        os.environ.pop("ANSIBLE_COLLECTIONS_PATH", None)


@contextmanager
def overlaid(directory):
    """Files of this run in a directory of the system; `run` has given it mounts of its own."""
    upper, work = settings.WORK / "upper", settings.WORK / "overlay"
    upper.mkdir()
    work.mkdir()
    options = f"lowerdir={directory},upperdir={upper},workdir={work}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, directory], check=True)
    try:
        yield upper
    finally:
        subprocess.run(["umount", directory], check=True)


def hello(session, node, trusted):
    build = session.build([node], run=[playbook("playbooks/hello.yaml", "org/project", trusted=trusted)])
    build.play()
    assert build.result == "SUCCESS", f"the result is {build.result} ({build.detail})"
    return build


def in_role(session, node):
    """A trusted project's role brings the plugin with it."""
    project = settings.WORK / "with-role"
    shutil.copytree(settings.PROJECT, project)
    shutil.copytree(PLUGINS, project / "roles" / "brings" / "connection_plugins")
    run = [playbook("playbooks/in_role.yaml", "org/project", trusted=True)]
    build = session.build([node], run=run, projects={"org/project": project})
    build.play()
    assert build.result == "SUCCESS", f"the result is {build.result} ({build.detail})"
    return build


def expect_ours(build, after=None):
    """No task was done by the stock plugin; `after`: from the play of that name on."""
    lines = (settings.WORK / "executor.log").read_text(errors="replace").splitlines()
    mine = [line for line in lines if build.build_request.uuid in line]
    if after:
        first = next(at for at, line in enumerate(mine) if f"PLAY [{after}]" in line)
        mine = mine[first:]
        assert any("<" in line and "> EXEC /bin/sh" in line or "> EXEC b'" in line for line in mine), "nothing was run"
    else:
        assert not stock_execs(build), stock_execs(build)[:2]
    stock = [line for line in mine if "EXEC [" in line]
    assert not stock, stock[:2]


def isolation(session):
    """Two builds on one host: neither sees the other's sockets, nor reaches them."""
    only_podbridge()
    one, other = (session.build([session.node(name)], "hello") for name in ("one", "other"))
    (socket,) = [entry.path for entry in os.scandir(other.jobdir.kube_dir) if entry.name != "config"]
    script = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    python = str(settings.ANSIBLE / ANSIBLE_VERSION / "bin" / "python")
    connect = (python, "-c", script, socket)
    subprocess.run(connect, check=True)
    assert one.in_sandbox(*connect)[1] != 0, "a build has reached another one's bridge"
    assert one.in_sandbox("test", "-e", other.jobdir.root)[1] != 0, "a build sees another one's directory"
    own = [entry.path for entry in os.scandir(one.jobdir.kube_dir) if entry.name != "config"]
    assert one.in_sandbox(python, "-c", script, *own)[1] == 0, "a build does not reach its own bridge"
