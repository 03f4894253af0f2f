"""Processes of ZooKeeper, PostgreSQL, zuul-scheduler, zuul-executor and nodepool-launcher; each is ended by its pid."""

import contextlib
import glob
import os
import pwd
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psycopg2

from tier import kube, settings
from tier.whole.configuration import python_program

# Libraries of Debian's ZooKeeper.
JARS = (
    "zookeeper",
    "zookeeper-jute",
    *(f"netty-{name}" for name in ("buffer", "codec", "common", "handler", "resolver", "transport")),
    "slf4j-api",
    "slf4j-simple",
    "commons-cli",
    "metrics-core",
    "snappy-java",
    "log4j-1.2",
)


class Services:
    """Services of one run; as a context manager it ends them all."""

    def __init__(self, configuration):
        self.configuration = configuration
        self.processes = {}
        self.postgres_directory = None

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.stop()

    def start(self, name, *command, **environment):
        with open(self.configuration.directory / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.configuration.directory,
                env={**os.environ, **environment},
                start_new_session=True,
            )

    def log(self, name):
        return (self.configuration.directory / f"{name}.log").read_text(errors="replace")

    def expect_running(self):
        for name, process in self.processes.items():
            assert process.poll() is None, f"{name} has ended:\n{self.log(name)[-3000:]}"

    def wait_for(self, what, condition, seconds=60):
        """Waits for a condition; fails at once if a service has ended."""

        def check():
            self.expect_running()
            return condition()

        return kube.wait_for(what, check, seconds)

    def start_zookeeper(self):
        jars = ":".join(f"/usr/share/java/{name}.jar" for name in JARS)
        main = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
        self.start("zookeeper", "java", "-Xmx256m", "-cp", jars, main, self.configuration.write_zookeeper())
        address = ("127.0.0.1", self.configuration.zookeeper_port)

        def listens():
            with contextlib.suppress(OSError), socket.create_connection(address, 1):
                return True

        self.wait_for("ZooKeeper", listens)

    def start_postgres(self):
        """Starts PostgreSQL, which refuses to run as root, at a socket in a directory of its own."""
        programs = Path(sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1])
        user = pwd.getpwnam("postgres")
        self.postgres_directory = str(self.configuration.directory / "postgres")
        os.mkdir(self.postgres_directory, 0o700)
        os.chown(self.postgres_directory, user.pw_uid, user.pw_gid)
        # That user has to pass through the directory of the run.
        os.chmod(settings.WORK, 0o711)
        as_user = ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")
        data = f"{self.postgres_directory}/data"
        make = (programs / "initdb", "-D", data, "-A", "trust", "-U", "zuul", "--no-sync", "--no-instructions")
        subprocess.run([*as_user, *make], check=True, capture_output=True, cwd="/")
        options = ("-k", self.postgres_directory, "-c", "listen_addresses=", "-c", "fsync=off")
        self.start("postgres", *as_user, programs / "postgres", "-D", data, *options)
        self.configuration.database = f"postgresql://zuul@/postgres?host={self.postgres_directory}"
        self.wait_for("PostgreSQL", lambda: self.query("SELECT 1"))

    def query(self, statement):
        """Returns the rows of a query; nothing as long as the table is missing."""
        with contextlib.suppress(psycopg2.OperationalError, psycopg2.errors.UndefinedTable):
            connection = psycopg2.connect(host=self.postgres_directory, user="zuul", dbname="postgres")
            with contextlib.closing(connection), connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall()
        return []

    def start_zuul(self, name):
        self.start(name, python_program(name), "-f", "-d", "-c", self.configuration.zuul)

    def start_nodepool(self, kubeconfig):
        main = "import sys; from nodepool.cmd.launcher import main; sys.exit(main())"
        options = ("-d", "--no-webapp", "-c", self.configuration.nodepool)
        temporary = self.configuration.directory / "nodepool-tmp"
        temporary.mkdir()
        home = {"KUBECONFIG": str(kubeconfig), "TMPDIR": str(temporary)}
        self.start("nodepool", sys.executable, "-c", main, *options, **home)

    def stop(self):
        """Ends all services, those that others need last."""
        for name, process in reversed(self.processes.items()):
            if process.poll() is None:
                # PostgreSQL ends at once with SIGINT, without waiting for its clients.
                process.send_signal(signal.SIGINT if name == "postgres" else signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
