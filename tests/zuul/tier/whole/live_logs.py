"""Reader of the live logs of all builds, from the finger port of the executor: what a person sees while a job runs."""

import contextlib
import os
import socket
import threading
import time
from datetime import datetime

from tier.joblog import JobLog


class LiveLogs:
    """Live logs by build. `text` is a log, `delays` are the seconds from the time in each line to its arrival."""

    def __init__(self, builds, port):
        self.builds, self.port = builds, port
        self.text, self.delays = {}, {}
        self.ended = threading.Event()
        self.threads = []
        self.watcher = threading.Thread(target=self.watch, name="live-logs", daemon=True)
        self.watcher.start()

    def watch(self):
        """Reads the log of each build whose directory appears."""
        while not self.ended.wait(0.2):
            for build in os.listdir(self.builds):
                if build not in self.text:
                    self.text[build], self.delays[build] = "", []
                    thread = threading.Thread(target=self.read, args=(build,), name=f"log-{build}", daemon=True)
                    self.threads.append(thread)
                    thread.start()

    def read(self, build):
        with contextlib.suppress(OSError):
            while os.path.isdir(f"{self.builds}/{build}") and not self.ended.is_set():
                if self.read_once(build):
                    return
                time.sleep(0.2)

    def read_once(self, build):
        """Reads a log to its end; returns whether there was one."""
        received = b""
        with socket.create_connection(("127.0.0.1", self.port), 10) as connection:
            connection.settimeout(120)
            connection.sendall(f"{build}\r\n".encode())
            while data := connection.recv(65536):
                now = datetime.now()
                received += data
                if received.startswith(b"Build not found"):
                    return False
                text = received.decode(errors="replace")
                fresh = text[len(self.text[build]) :].rpartition("\n")[0]
                self.text[build] = text
                self.delays[build] += [
                    (now - when).total_seconds() for when, _text in JobLog(fresh).lines if when is not None
                ]
        return bool(received)

    def of(self, build):
        return JobLog(self.text[build])

    def running(self, text):
        """Returns the builds whose log has this text."""
        return [build for build, log in self.text.items() if text in log]

    def stop(self):
        self.ended.set()
        self.watcher.join(5)
        for thread in self.threads:
            thread.join(5)
