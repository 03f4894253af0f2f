# Copyright: podbridge contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Documentation of the action plugin `connect`, which runs on the controller; this module has no code."""

from __future__ import annotations

DOCUMENTATION = r"""
module: connect
author: podbridge contributors (!UNKNOWN)
short_description: Connect to a container, or fail
description:
  - Connects to the host's container, so that later tasks find a connection and a live log.
  - If this is not possible, the task fails, and C(rescue) can go on. With every other task the host is unreachable, its
    play ends, and Zuul retries the job.
  - The image needs no Python.
version_added: 0.1.0
options: {}
"""

EXAMPLES = r"""
- name: Connect
  podbridge.zuul.connect:
  delegate_to: web
"""

RETURN = r"""
msg:
  description: Why the container cannot be reached.
  returned: failure
  type: str
"""
