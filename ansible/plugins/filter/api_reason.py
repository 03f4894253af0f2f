# Copyright: podbridge contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Filter `api_reason`: what the API server or a program said, as one line, from the result of a failed task."""

from __future__ import annotations

DOCUMENTATION = r"""
name: api_reason
short_description: Reason why a task failed, as one line
version_added: 0.1.0
author: podbridge contributors (!UNKNOWN)
description:
  - Takes the result of a failed task of C(kubernetes.core) and returns the sentence of the API server in it, without
    headers and JSON around it.
  - Takes the result of a failed command, and returns the line that podbridge, git or another program marks as an
    error, or the last one. Else returns the first line of the message.
  - Takes the result of a failed loop, and returns the reason of its first item that failed.
options:
  _input:
    description: The result of the task, for example C(ansible_failed_result).
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Say why
  ansible.builtin.fail:
    msg: "the secret cannot be made: {{ ansible_failed_result | podbridge.zuul.api_reason }}"
"""

RETURN = r"""
_value:
  description: The line; empty if the result has none.
  type: str
"""

import ast
import json
import re

# How the answers of the API server begin.
STATUS = '{"kind":"Status"'
# Some exceptions of the client print the body of the answer as a literal of Python.
LITERAL = re.compile(r"""b'\{"kind":"Status"(?:[^'\\]|\\.)*'""")
LONGEST = 500
# Beginnings of lines with an error. git adds its own after that of podbridge, which has the cause.
MARKS = ("podbridge:", "podbridge-agent:", "fatal:", "error:")


def sentence(message):
    """Returns the message of the API server's answer in a text; empty if there is none."""
    literal = LITERAL.search(message)
    text = ast.literal_eval(literal.group()).decode(errors="replace") if literal else message
    try:
        return str(json.JSONDecoder().raw_decode(text, text.index(STATUS))[0]["message"])
    except (ValueError, KeyError):
        return ""


def error_line(text):
    """Returns the line of a command's output that says the error: the first that is marked as one, or the last."""
    lines = [line.strip() for line in str(text).splitlines() if line.strip()]
    marked = [line for mark in MARKS for line in lines if line.lower().startswith(mark)]
    return next(iter(marked or reversed(lines)), "")


def api_reason(result):
    """Returns the reason in the result of a failed task; of a loop, that of its first item that failed."""
    result = next((each for each in result.get("results") or [] if each.get("failed")), result)
    message = str(result.get("msg") or "")
    # A command's message says only that its exit code is not zero.
    output = (
        (error_line(result.get("stderr") or "") or error_line(result.get("stdout") or "")) if "rc" in result else ""
    )
    reason = sentence(message) or output or message
    lines = reason.strip().splitlines()
    return lines[0][:LONGEST] if lines else ""


class FilterModule:
    """The filter, for Ansible."""

    def filters(self):
        return {"api_reason": api_reason}
