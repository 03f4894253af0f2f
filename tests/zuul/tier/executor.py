"""Stand-in for the executor that AnsibleJob belongs to. It has only the attributes that AnsibleJob reads: configuration
and drivers are Zuul's own, and nothing needs ZooKeeper. `session.py` makes one for each scenario.
"""

import collections
import configparser
import contextlib
import multiprocessing
from types import SimpleNamespace

from zuul.driver.bubblewrap import BubblewrapDriver
from zuul.driver.nullwrap import NullwrapDriver
from zuul.executor import server
from zuul.lib.ansible import AnsibleManager

from tier import settings

ANSIBLE_VERSION = "11"


def project(name):
    return SimpleNamespace(
        name=name,
        canonical_hostname="review.example.com",
        canonical_name=f"review.example.com/{name}",
        connection_name="gerrit",
    )


class Semaphores:
    """Semaphore handler for jobs without semaphores."""

    @staticmethod
    def acquireFromInfo(*_arguments):
        return True

    @staticmethod
    def releaseFromInfo(*_arguments):
        return None


class Executor:
    """Executor with the attributes that AnsibleJob reads; `options` are added to the section [executor]."""

    def __init__(self, **options):
        multiprocessing.set_start_method("forkserver", force=True)
        multiprocessing.set_forkserver_preload([])
        ro_paths = ":".join(settings.ro_paths())
        self.config = configparser.ConfigParser()
        self.config["executor"] = {"trusted_ro_paths": ro_paths, "untrusted_ro_paths": ro_paths, **options}
        self.ansible_manager = AnsibleManager(
            str(settings.WORK / "zuul-ansible"), ANSIBLE_VERSION, runtime_install_root=str(settings.ANSIBLE)
        )
        self.ansible_manager.copyAnsibleFiles()
        self.ansible_callbacks = {}
        self.execution_wrapper = BubblewrapDriver()
        self.execution_wrapper.check()
        self.connections = SimpleNamespace(
            drivers={"nullwrap": NullwrapDriver()}, getSource=lambda _name: SimpleNamespace(getProject=project)
        )
        self.zk_context = contextlib.nullcontext()
        self.semaphore_handler = Semaphores
        self.management_events = collections.defaultdict(lambda: None)
        self.result_events = collections.defaultdict(lambda: collections.defaultdict(lambda: None))
        self.stop_worker_parent_conn, self.stop_worker_child_conn = multiprocessing.Pipe()
        self.statsd = None
        self.verbose = True
        self.keep_jobdir = True
        self.jobdir_root = str(settings.BUILDS)
        self.hostname = "executor.example.com"
        self.default_username = "zuul"
        self.setup_timeout = 60
        self.log_console_port = server.DEFAULT_STREAM_PORT
        self.statuses = []

    def updateBuildStatus(self, _request, status):
        self.statuses.append(status)
