#!/usr/bin/python
"""Returns what a module can see of its process."""

import builtins
import json
import locale
import os
import resource
import signal
import socket
import sys
import threading
import warnings

import ansible.module_utils.basic as basic
from ansible.module_utils.basic import AnsibleModule


def main():
    names = [name for name in sys.modules if name.startswith("ansible")]
    mask = os.umask(0)
    os.umask(mask)
    seen = dict(
        planted=[
            name
            for name in dir(builtins) + dir(basic) + dir(json) + list(sys.modules) + list(os.environ)
            if "planted" in name.lower()
        ],
        modules=sorted(names),
        attributes={name: sorted(vars(sys.modules[name])) for name in sorted(names)},
        path=[os.path.basename(path) for path in sys.path],
        argv=[os.path.basename(argument) for argument in sys.argv],
        flags=str(sys.flags),
        environment=sorted(name for name in os.environ if name not in ("_", "OLDPWD")),
        cwd=os.getcwd(),
        mask=mask,
        ids=[os.getuid(), os.getgid(), os.getgroups()],
        session=os.getsid(0) == os.getpid(),
        limits=[resource.getrlimit(number) for number in range(16) if number != 10],
        locale=locale.setlocale(locale.LC_ALL),
        signals=[str(signal.getsignal(number)).split(" at ")[0] for number in sorted(signal.valid_signals())],
        blocked=sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),
        descriptors=sorted(os.listdir("/proc/self/fd")),
        threads=threading.active_count(),
        timeout=socket.getdefaulttimeout(),
        filters=str(warnings.filters),
        recursion=sys.getrecursionlimit(),
        nice=os.nice(0),
        stdin=sys.stdin.read(),
        main=sorted(name for name in vars(sys.modules["__main__"]) if name.startswith("_")),
        intern=type(sys.intern).__name__,
        getaddrinfo=type(socket.getaddrinfo).__name__,
        same=[
            basic.__file__ == basic.__spec__.origin == basic.AnsibleModule.exit_json.__code__.co_filename,
            basic.__loader__.archive in sys.path,
        ],
        finders=[getattr(finder, "__name__", type(finder).__name__) for finder in sys.meta_path],
    )
    AnsibleModule({}).exit_json(seen=seen)


if __name__ == "__main__":
    main()
