#!/usr/bin/python
"""Leaves behind in its process all that a later module could stumble over."""

import atexit
import builtins
import json
import locale
import os
import resource
import signal
import socket
import sys
import threading
import time
import warnings

import ansible.module_utils.basic as basic
from ansible.module_utils.basic import AnsibleModule


def main():
    module = AnsibleModule({})
    builtins.planted = basic.planted = json.planted = sys.modules["planted"] = sys
    os.environ["PLANTED"] = "1"
    os.chdir("/")
    os.umask(0o77)
    os.nice(1)
    signal.signal(signal.SIGUSR1, print)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    locale.setlocale(locale.LC_ALL, "C")
    socket.setdefaulttimeout(1)
    socket.getaddrinfo = None
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("error")
    sys.setrecursionlimit(900)
    for _ in range(20):
        os.dup(1)
    threading.Thread(target=time.sleep, args=(0.2,)).start()
    atexit.register(time.sleep, 0)
    basic.AnsibleModule.fail_json = basic.AnsibleModule.run_command = None
    module.exit_json()


if __name__ == "__main__":
    main()
