"""Watch over the command lines and environments of all processes of this machine, for secrets in them: what `ps` shows.

It keeps what it saw, because a secret may be known only after a process has had it. Scenarios use it.
"""

import os
import threading

PAUSE = 0.02


class ProcessWatch(threading.Thread):
    """Reads every process of the machine, again and again, until the end of the `with` block."""

    def __init__(self):
        super().__init__(name="process watch", daemon=True)
        self.seen = {}
        self.end = threading.Event()
        self.rounds = 0

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_error):
        self.end.set()
        self.join()

    def run(self):
        while not self.end.wait(PAUSE):
            for pid in filter(str.isdigit, os.listdir("/proc")):
                # A process changes both with execve alone.
                for name in ("cmdline", "environ"):
                    try:
                        with open(f"/proc/{pid}/{name}", "rb") as file:
                            self.seen.setdefault(file.read(), (pid, name))
                    except OSError:
                        continue  # it has ended
            self.rounds += 1

    def expect_none(self, secret):
        """Asserts that no process has had the secret, and that the watch has seen the programs of a build."""
        with_secret = [where for content, where in self.seen.items() if secret.encode() in content]
        assert not with_secret, f"a secret was in {with_secret} (pid, file)"
        assert any(b"ansible-playbook" in content for content in self.seen), "the watch has seen no ansible-playbook"
        assert self.rounds > 10, f"the watch looked {self.rounds} times"
