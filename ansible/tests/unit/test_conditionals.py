# Copyright: podbridge contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Each conditional in roles, examples and documents is true or false: ansible-core 2.19 and newer refuse lists."""

from __future__ import annotations

import re
from pathlib import Path

import jinja2
import pytest
import yaml
from jinja2 import nodes

COLLECTION = Path(__file__).parents[2]
REPOSITORY = COLLECTION.parent
KEYWORDS = ("when", "changed_when", "failed_when", "until", "that")


def files():
    """Returns the files with tasks. The collection is tested without its repository, too."""
    patterns = ("examples/**/*.yaml", "demo/*.yaml", "docs/*.md", "examples/**/*.md")
    of_repository = [path for pattern in patterns for path in REPOSITORY.glob(pattern)]
    return [*COLLECTION.glob("roles/*/tasks/*.yml"), *of_repository]


def documents(path):
    """Returns the YAML documents of a file; those of Markdown are its blocks."""
    text = path.read_text()
    texts = re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL) if path.suffix == ".md" else [text]
    return [document for each in texts for document in yaml.safe_load_all(each)]


def conditionals(tree):
    """Returns the expressions in a document, as text."""
    if isinstance(tree, list):
        return [found for each in tree for found in conditionals(each)]
    if not isinstance(tree, dict):
        return []
    values = [value if isinstance(value, list) else [value] for key, value in tree.items() if key in KEYWORDS]
    return [str(each) for value in values for each in value] + conditionals(list(tree.values()))


def is_boolean(node):
    """Returns whether an expression is true or false, whatever its variables are."""
    if isinstance(node, (nodes.And, nodes.Or)):
        return is_boolean(node.left) and is_boolean(node.right)
    if isinstance(node, nodes.Const):
        return isinstance(node.value, bool)
    if isinstance(node, nodes.Filter):
        return node.name == "bool"
    return isinstance(node, (nodes.Compare, nodes.Not, nodes.Test))


def is_boolean_text(text):
    output = jinja2.Environment().parse(f"{{{{ ({text}) }}}}").body[0]
    return is_boolean(output.nodes[0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a == 'b'", True),
        ("not a", True),
        ("a is defined and not b", True),
        ("a | length > 0", True),
        ("a | bool", True),
        ("true", True),
        ("a", False),
        ("a is defined and b", False),
        ("a | reject('equalto', 'b') | list", False),
        ("a | length", False),
    ],
)
def test_what_is_true_or_false(text, expected):
    assert is_boolean_text(text) == expected


def test_each_conditional_is_true_or_false():
    found = [(path, text) for path in files() for tree in documents(path) for text in conditionals(tree)]
    assert len(found) > 10
    assert not [f"{path.relative_to(REPOSITORY)}: {text}" for path, text in found if not is_boolean_text(text)]
