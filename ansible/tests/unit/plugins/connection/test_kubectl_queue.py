# Copyright: podbridge contributors
# GNU General Public License v3.0 or later (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bridges whose queue of connections is full."""

from __future__ import annotations

import socket
import sys
import threading
from pathlib import Path

import pytest
from ansible.plugins.loader import connection_loader

connection_loader.add_directory(str(Path(__file__).parents[4] / "plugins" / "connection"))
plugin = sys.modules[connection_loader.get("kubectl", class_only=True).__module__]


@pytest.mark.parametrize("timeout", [None, 10])
def test_a_client_waits_for_a_place_in_the_queue_of_its_bridge(tmp_path, timeout):
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)
        with socket.socket(socket.AF_UNIX) as second, pytest.raises(BlockingIOError):
            second.setblocking(False)
            second.connect(path)
        accepting = threading.Timer(0.1, listener.accept)
        accepting.start()
        plugin.connect(path, timeout).close()
        accepting.join()


def test_a_client_does_not_wait_for_ever_for_a_bridge_that_accepts_nobody(tmp_path):
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)
        with pytest.raises(plugin.BridgeLost):
            plugin.connect(path, 0.1)
