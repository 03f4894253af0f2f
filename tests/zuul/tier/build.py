"""One build: Zuul's AnsibleJob with a job and nodes that a scenario defines instead of a scheduler.

Everything between "Preparing playbooks" and the build's result is Zuul's own code. Only the checkouts are replaced: a
project is a directory here instead of a Git repository. `session.py` makes the builds.
"""

import copy
import os
import shutil
import subprocess
import threading
import time
import uuid
from types import SimpleNamespace
from unittest import mock

from zuul.executor import server
from zuul.executor.logreceiver import LogReceiver
from zuul.model import Node, NodeSet
from zuul.model_api import MODEL_API

from tier import executor as executors
from tier import settings
from tier.joblog import JobLog
from tier.meter import Meter


def frozen_job(nodeset, options):
    """Returns the job with the fields that a scheduler freezes into ZooKeeper; removes its own keys from `options`."""
    fields = dict(
        name=options.pop("job", "tier"),
        voting=True,
        tags=(),
        pre_timeout=None,
        timeout=900,
        post_timeout=300,
        inheritance_path=(),
        workspace_checkout=False,
        workspace_scheme=None,
        image_build_name=None,
        deduplicate="auto",
        artifact_data=None,
        override_checkout=None,
        override_branch=None,
        failure_output=(),
        secret_exposure="ignore",
        ansible_version=executors.ANSIBLE_VERSION,
        ansible_split_streams=options.pop("split", False),
        include_vars=(),
        variables=settings.JOB_VARIABLES | options.pop("variables", {}),
        host_variables=options.pop("host_variables", {}),
        group_variables={},
        extra_variables={},
        cleanup_run=[],
        nodeset=nodeset,
    )
    return SimpleNamespace(**fields)


def playbook(path, name, trusted=False):
    """Returns the entry of a job for the playbook `path` of the project `name`."""
    role = dict(
        type="zuul",
        connection="gerrit",
        project=name,
        target_name=name.rsplit("/", 1)[-1],
        implicit=True,
        project_default_branch="master",
    )
    return dict(
        connection="gerrit",
        project=name,
        branch="master",
        trusted=trusted,
        path=path,
        roles=[role],
        secrets={},
        semaphores=[],
    )


def node(name, namespace, pod):
    """Returns a node as Zuul's pod drivers hand it to the executor; without a pod, a namespace for the job's own."""
    made = Node([name], "pod-label")
    made.updateFromDict(copy.deepcopy(namespace.node_of(pod)))
    return made


class Build(server.AnsibleJob):
    """Build of playbooks on nodes.

    `nodes` are tuples (name, namespace, pod). `pre`, `run` and `post` are lists of `playbook()`. `projects` maps the
    name of a project to its directory. `spent` lists, for each playbook of the phase `run`, its processor time and its
    wall clock time in seconds.
    """

    def __init__(self, executor, nodes, run, pre=(), post=(), projects=None, **options):
        nodeset = NodeSet()
        for each in nodes:
            nodeset.addNode(node(*each))
        self.projects = projects or {"org/project": settings.PROJECT}
        job = frozen_job(nodeset, options)
        job.pre_run, job.run, job.post_run = [list(part) for part in (pre, run, post)]
        name, repositories = next(iter(self.projects)), options.pop("repositories", ())
        request = SimpleNamespace(uuid=uuid.uuid4().hex, tenant_name="tenant", pipeline_name="check")
        arguments = self.scheduler_arguments(request.uuid, executors.project(name))
        arguments["zuul"].update(options.pop("zuul", {}))
        arguments["secret_parent_data"] = options.pop("secret_parent_data", {})
        with mock.patch.object(server, "FrozenJob", SimpleNamespace(fromZK=lambda _context, _ref: job)):
            super().__init__(executor, request, arguments)
        self.nodeset = nodeset
        self.time_starting_build = time.monotonic()
        self.result = self.unreachable = self.detail = self.raised = None
        self.spent = []
        self.jobdir = server.JobDir(executor.jobdir_root, executor.keep_jobdir, request.uuid)
        for repository in repositories:
            self.make_repository(repository)
        self.log_receiver = LogReceiver(None, request.uuid, self.jobdir, executor.stop_worker_parent_conn, "ignore")
        self.log_receiver.start(executor.execution_wrapper.cgroup_manager)

    def make_repository(self, canonical_name):
        """Makes a repository with one commit in the work directory, as Zuul's merger leaves it."""
        path = os.path.join(self.jobdir.src_root, canonical_name)
        script = (
            'git init --quiet --initial-branch master "$0" && cd "$0" && echo one >README && git add . && '
            "git -c user.name=Zuul -c user.email=zuul@example.com commit --quiet -m one"
        )
        subprocess.run(["sh", "-c", script, path], check=True)

    @staticmethod
    def scheduler_arguments(build, project):
        return {
            "zuul_event_id": None,
            "job_ref": None,
            "branch": "master",
            "projects": [],
            "parent_data": {},
            "secret_parent_data": {},
            "semaphore_handle": {},
            "zuul": {
                "build": build,
                "job": "tier",
                "tenant": "tenant",
                "pipeline": "check",
                "branch": "master",
                "ref": "refs/changes/01/1/1",
                "attempts": 1,
                "max_attempts": 3,
                "items": [],
                "projects": {},
                "project": {
                    "name": project.name,
                    "canonical_name": project.canonical_name,
                    "src_dir": f"src/{project.canonical_name}",
                },
            },
        }

    def checkoutUntrustedProject(self, project, branch, args):
        return self.copy_project(project, branch, self.jobdir.getUntrustedProject, self.jobdir.addUntrustedProject)

    def checkoutTrustedProject(self, project, branch, args):
        return self.copy_project(project, branch, self.jobdir.getTrustedProject, self.jobdir.addTrustedProject)

    def copy_project(self, project, branch, get, add):
        """Copies the directory of a project once and returns the path of the copy."""
        known = get(project.canonical_name, branch)
        checkout = known or add(project.canonical_name, branch)
        path = os.path.join(checkout.root, project.canonical_hostname, project.name)
        if not known:
            shutil.copytree(self.projects[project.name], path)
        return path

    def selectBranchForProject(self, project, default, alternative_branch=None, consider_ref=None):
        return alternative_branch or default, "test branch"

    def prepare(self):
        """Does what Zuul does before the first playbook; starts the port-forwards."""
        self.loadIncludeVars()
        self.preparePlaybooks(self.arguments)
        self.writeLoggingConfig()
        resources = self.prepareNodes(self.arguments)
        self.prepareVars(self.arguments, resources)
        self.writeDebugInventory()
        return self

    def play(self):
        """Runs all playbooks and returns Zuul's result; None means that Zuul would retry the build."""
        # Zuul reads the version of its model from ZooKeeper when it releases semaphores.
        with mock.patch.object(server, "COMPONENT_REGISTRY", SimpleNamespace(model_api=MODEL_API)):
            self.result, self.unreachable, self.detail = self.runPlaybooks(self.arguments)
        return self.result

    def runAnsible(self, *arguments, phase=None, **options):
        """Runs a playbook with Zuul's method and adds the times of a playbook of the phase `run` to `spent`."""
        with Meter(lambda: self.proc) as meter:
            done = super().runAnsible(*arguments, phase=phase, **options)
        if phase == "run":
            self.spent.append((meter.cpu, meter.wall))
        return done

    def begin(self):
        """Plays in the background; `wait` raises the error of that thread."""
        self.thread = threading.Thread(target=self.play_and_store_error, name="play", daemon=True)
        self.thread.start()

    def play_and_store_error(self):
        try:
            self.play()
        except Exception as raised:  # `wait` raises it in its own thread
            self.raised = raised

    def has_ended(self):
        return not self.thread.is_alive()

    def wait(self, seconds):
        """Waits until the playbooks have ended; raises AssertionError after `seconds`."""
        self.thread.join(seconds)
        assert self.has_ended(), f"the build has not ended within {seconds} s"
        if self.raised:
            raise self.raised

    def run_in_sandbox(self, *command, timeout=300):
        """Runs a command in the sandbox and environment of ansible-playbook; returns Zuul's (result, exit code)."""
        return self.runAnsible(list(command), timeout, self.jobdir.freeze_playbook, self.ansible_version, False)

    def log_text(self):
        with open(self.jobdir.job_output_file, errors="surrogateescape") as file:
            return file.read()

    def joblog(self):
        return JobLog(self.log_text())

    def close(self, remove=True):
        """Ends the build as Zuul's do_execute does: first its directory, then its port-forwards.

        Returns how many seconds the port-forwards took to stop.
        """
        self.stop()  # ends playbooks that still run
        self.jobdir.keep = not remove
        if os.path.exists(self.jobdir.root):
            self.jobdir.cleanup()
        took = self.stop_forwards()
        self.log_receiver.stop()
        return took

    def stop_forwards(self):
        started = time.monotonic()
        for forward in self.port_forwards:
            forward.stop()
        self.port_forwards = []
        return time.monotonic() - started
