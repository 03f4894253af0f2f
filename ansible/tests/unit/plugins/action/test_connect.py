# Copyright: podbridge contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests of what the action `connect` makes of a connection's answers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.playbook.play_context import PlayContext
from ansible.playbook.task import Task
from ansible.plugins.loader import action_loader

PLUGINS = Path(__file__).resolve().parents[4] / "plugins"
action_loader.add_directory(str(PLUGINS / "action"))


def run(exec_command):
    """Returns the result of the action on a connection with this method."""
    connection = SimpleNamespace(exec_command=exec_command, pod="web", _shell=SimpleNamespace(tmpdir=None))
    parts = dict(connection=connection, play_context=PlayContext(), loader=None, templar=None, shared_loader_obj=None)
    return action_loader.get("connect", task=Task(), **parts).run(task_vars={})


@pytest.mark.parametrize("code", [0, 127])
def test_a_container_that_answers_is_reached(code):
    asked = []
    result = run(lambda command, sudoable: asked.append((command, sudoable)) or (code, b"", b""))
    assert not result.get("failed") and result["changed"] is False
    assert asked == [(":", False)]


@pytest.mark.parametrize("why", ["no sh", "pod web: no sh"])
def test_a_container_that_is_not_reached_is_a_failure_and_not_an_unreachable_host(why):
    def exec_command(command, sudoable):
        raise AnsibleConnectionFailure(why)

    result = run(exec_command)
    assert result["failed"] and result["msg"] == "pod web: no sh" and not result.get("unreachable")


def test_other_errors_are_ansibles():
    def exec_command(command, sudoable):
        raise AnsibleError("out of memory")

    with pytest.raises(AnsibleError, match="out of memory"):
        run(exec_command)
