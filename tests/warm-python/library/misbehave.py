#!/usr/bin/python
"""Does one thing to its process that few modules do."""

import atexit
import locale
import os
import resource
import signal
import subprocess
import sys
import threading
import time

from ansible.module_utils.basic import AnsibleModule


def main():
    module = AnsibleModule({"how": {}})
    how = module.params["how"]
    if how == "fork":
        if not os.fork():
            os._exit(3)
        os.wait()
    elif how == "daemon":
        if not os.fork():
            os.setsid()
            for number in range(3):
                os.dup2(os.open(os.devnull, os.O_RDWR), number)
            time.sleep(0.5)
            os._exit(0)
    elif how == "chdir":
        os.chdir("/")
    elif how == "umask":
        os.umask(0)
    elif how == "locale":
        locale.setlocale(locale.LC_ALL, "C")
    elif how == "environment":
        os.environ.clear()
    elif how == "signal":
        os.kill(os.getpid(), signal.SIGKILL)
    elif how == "segfault":
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.kill(os.getpid(), signal.SIGSEGV)
    elif how == "garbage":
        sys.stdout.buffer.write(b"\x00\xffgarbage\n")
    elif how == "nothing":
        sys.exit(0)
    elif how == "exception":
        raise KeyError("exception")
    elif how == "exit":
        os._exit(7)
    elif how == "stdin":
        module.exit_json(
            stdin=sys.stdin.read(), cat=subprocess.run(["cat"], stdout=subprocess.PIPE, check=False).stdout.decode()
        )
    elif how == "memory":
        resource.setrlimit(resource.RLIMIT_AS, (1 << 28, 1 << 28))
        bytearray(1 << 30)
    elif how == "descriptors":
        os.closerange(3, 1000)
    elif how == "threads":
        threading.Thread(target=time.sleep, args=(0.3,)).start()
    elif how == "atexit":
        atexit.register(os.write, 2, b"at exit\n")
    module.exit_json(how=how)


if __name__ == "__main__":
    main()
