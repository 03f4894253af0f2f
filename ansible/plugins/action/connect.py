# Copyright: podbridge contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Action plugin `connect`: connects to a container, and fails where a task would make the host unreachable.

A host that is unreachable ends the play: no `rescue` runs for it. Zuul retries a job with an unreachable host, even if
the task ignores that. modules/connect.py documents the action. The role `pod` calls it.
"""

from __future__ import annotations

from ansible.errors import AnsibleConnectionFailure

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """Runs `:` in the container. Its exit code does not matter: an image without a shell may contain the agent."""

    TRANSFERS_FILES = False

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        try:
            self._connection.exec_command(":", sudoable=False)
        except AnsibleConnectionFailure as error:
            pod, why = f"pod {self._connection.pod}", str(error)
            return {**result, "failed": True, "msg": why if pod in why else f"{pod}: {why}"}
        return {**result, "changed": False}
