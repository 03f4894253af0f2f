# Copyright: podbridge contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests of how the action translates its options, with a stand-in for podbridge that records its arguments. The plays
of tests/ansible run the real program.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.parsing.dataloader import DataLoader
from ansible.playbook.play_context import PlayContext
from ansible.playbook.task import Task
from ansible.plugins.loader import action_loader, connection_loader
from ansible.template import Templar

from ansible.plugins import loader as plugin_loader

PLUGINS = Path(__file__).resolve().parents[4] / "plugins"
connection_loader.add_directory(str(PLUGINS / "connection"))
action_loader.add_directory(str(PLUGINS / "action"))

# Stand-in for podbridge: it records its arguments. `exec` fails, because this pod has no rsync.
PROGRAM = """#!/bin/sh
for word; do printf '%s\\n' "$word"; done >>"$0.words"
case " $* " in *" exec "*) exit 127 ;; esac
[ ! -e "$0.stderr" ] || { cat "$0.stderr" >&2; exit "$(cat "$0.code")"; }
[ ! -e "$0.stdout" ] || cat "$0.stdout"
"""


class Pod:
    """Pod without rsync, and a task that runs for it; `words` returns the arguments of `podbridge sync`."""

    def __init__(self, tmp_path):
        self.program = tmp_path / "podbridge"
        self.program.write_text(PROGRAM)
        self.program.chmod(0o755)
        (tmp_path / "tree").mkdir()
        (tmp_path / "file").touch()
        self.loader = DataLoader()
        self.loader.set_basedir(str(tmp_path))

    def set_output(self, **files):
        """Sets stdout, or stderr and the exit code (code), of the stand-in."""
        for kind, text in files.items():
            (self.program.parent / f"podbridge.{kind}").write_text(text)

    def words(self):
        """Returns the arguments after `sync` and the options that every call has."""
        words = (self.program.parent / "podbridge.words").read_text().splitlines()
        first = words.index("sync") + 1
        assert words[first : first + 3] == ["--quiet", "--verbose", "--preserve-root-attributes"]
        return words[first + 3 :]

    def run(self, variables=None, context=None, check=False, **arguments):
        play_context = context or PlayContext()
        play_context.remote_addr = "web"
        connection = connection_loader.get("kubectl", play_context, os.devnull)
        variables = {"ansible_podbridge_executable": str(self.program), **(variables or {})}
        connection.set_options(var_options={"ansible_kubectl_namespace": "ci", **variables})
        connection.is_directory = lambda path: path.endswith("directory")
        task = Task()
        task.args, task.check_mode, task.diff = {"src": "tree/", "dest": "/there", **arguments}, check, False
        loader = self.loader
        action = action_loader.get(
            "synchronize",
            task=task,
            connection=connection,
            play_context=play_context,
            loader=loader,
            templar=Templar(loader=loader),
            shared_loader_obj=plugin_loader,
        )
        return action.run(task_vars={"inventory_hostname": "web", "hostvars": {"web": {}}})


@pytest.fixture
def pod(tmp_path):
    return Pod(tmp_path)


def test_push_with_the_options_of_zuul_jobs(pod, tmp_path):
    pod.set_output(stdout="new a\nchanged b\n")
    result = pod.run(delete=True, recursive=True, owner=False, group=False)
    assert pod.words() == ["--delete", "--no-owner", f"{tmp_path}/tree/", "web:/there"]
    assert (result["changed"], result["rc"], result["stdout_lines"]) == (True, 0, ["new a", "changed b"])
    assert result["msg"] == "new a\nchanged b\n"
    json.dumps(result)


def test_pull_accepts_options_that_have_no_effect(pod, tmp_path):
    result = pod.run(
        mode="pull", src="/logs/", dest="back/", verify_host=True, private_key="k", rsync_timeout=9, compress=False
    )
    assert pod.words() == ["--compress=never", "web:/logs/", f"{tmp_path}/back/"]
    assert result["changed"] is False


@pytest.mark.parametrize(
    ("src", "dest", "opts", "expected"),
    [
        ("tree", "/there", ["--exclude=/tree/a", "--exclude=b/"], ["--exclude=/a", "--exclude=b/", "/there/tree"]),
        ("tree", "/there", ["--include=/tree/", "--exclude=/other/a"], ["--include=*", "/there/tree"]),
        ("tree/", "/there", ["--exclude=/a", "--include 'b c'"], ["--exclude=/a", "--include=b c", "/there"]),
        (
            "tree/",
            "/there",
            ["--exclude", "a", "--include=b/***"],
            ["--exclude=a", "--include=b/", "--include=b/**", "/there"],
        ),
        (
            "tree/",
            "/there",
            ["-avzc", "--delete-after", "--no-o", "--no-g"],
            ["--delete", "--checksum", "--no-owner", "/there"],
        ),
        ("file", "/there/", ["--delete"], ["/there/"]),
    ],
)
def test_slashes_and_patterns_have_the_meaning_of_rsync(pod, src, dest, opts, expected):
    pod.run(src=src, dest=dest, rsync_opts=opts)
    flags = [word for word in pod.words() if word.startswith("--")]
    assert [*flags, pod.words()[-1].removeprefix("web:")] == expected


def test_a_directory_in_the_pod_without_a_slash_is_copied_itself(pod, tmp_path):
    pod.run(mode="pull", src="/a/directory", dest="/back")
    assert pod.words()[-2:] == ["web:/a/directory", "/back/directory"]
    pod.run(mode="pull", src="/a/file", dest="/back")
    assert pod.words()[-2:] == ["web:/a/file", "/back"]


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"existing_only": True}, "existing_only"),
        ({"copy_links": True}, "copy_links"),
        ({"link_dest": ["/a"]}, "link_dest"),
        ({"archive": False}, "recursive: false"),
        ({"times": False}, "times: false"),
        ({"owner": False}, "owner without group"),
        ({"rsync_opts": ["--bwlimit=1"]}, "--bwlimit=1"),
        ({"rsync_opts": ["-vx"]}, "-vx"),
        ({"rsync_opts": ["--delete-excluded"]}, "--delete-excluded"),
        ({"rsync_opts": ["path"]}, "path"),
        ({"src": "tree", "rsync_opts": ["--exclude=/t*/a"]}, "/t*/a"),
    ],
)
def test_an_unsupported_option_is_named(pod, arguments, name):
    with pytest.raises(AnsibleActionFail, match="without rsync") as failed:
        pod.run(**arguments)
    assert name in str(failed.value)


def test_become_user_and_check_mode_are_passed_on(pod):
    context = PlayContext()
    context.become, context.become_user = True, "tester"
    pod.run(context=context, variables={"ansible_podbridge_user": "ci"}, check=True)
    assert pod.words()[:2] == ["--user=tester", "--dry-run"]
    (pod.program.parent / "podbridge.words").unlink()
    pod.run(variables={"ansible_podbridge_user": "ci"})
    assert pod.words()[0] == "--user=ci"


def test_a_failure_is_not_an_unreachable_pod(pod):
    pod.set_output(stderr="podbridge: no space\n", code="236")
    result = pod.run()
    assert (result["failed"], result["rc"], result["msg"]) == (True, 236, "no space")
    pod.set_output(stderr="podbridge: pod ci/web was deleted\n", code="241")
    with pytest.raises(AnsibleConnectionFailure, match="^pod ci/web was deleted$"):
        pod.run()
    with pytest.raises(AnsibleActionFail, match="nothing does not exist"):
        pod.run(src="nothing")


def test_a_token_appears_on_no_command_line(pod):
    pod.set_output(stdout="new f\n")
    result = pod.run(variables={"ansible_kubectl_token": "SECRET"})
    assert "--target-file=" in result["cmd"]
    assert "SECRET" not in str(result)
