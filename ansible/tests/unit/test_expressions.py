# Copyright: podbridge contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tests of expressions in the roles that no filter has, as Ansible evaluates them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

ROLES = Path(__file__).parents[2] / "roles"


def find(tree, name):
    """Returns the task of this name."""
    if isinstance(tree, list):
        return next(filter(None, (find(each, name) for each in tree)), None)
    if not isinstance(tree, dict) or tree.get("name") == name:
        return tree if isinstance(tree, dict) else None
    return find([tree.get("block"), tree.get("rescue"), tree.get("always")], name)


def evaluate(role, task, expression, **variables):
    """Returns the value of an expression with the variables of a task."""
    found = find(yaml.safe_load((ROLES / role / "tasks" / "main.yml").read_text()), task)
    return Templar(DataLoader(), variables={**variables, **found.get("vars", {})}).template(expression)


@pytest.mark.parametrize(("ip", "address"), [("10.0.0.7", "10.0.0.7:5000"), ("fd00::7", "[fd00::7]:5000")])
def test_the_address_of_a_registry(ip, address):
    made = {"result": {"status": {"podIP": ip}}}
    options = {"podbridge_registry_made": made, "podbridge_registry_port": 5000}
    assert evaluate("registry", "Name the registry", "{{ address }}", **options) == address
