"""Code of nodepool and of Zuul's launcher that makes nodes, unmodified: their pods, roles, service accounts and tokens
are those of a production system. Only ZooKeeper is missing, where they would store the nodes.
"""

import tempfile
from contextlib import contextmanager
from unittest import mock

from kubernetes.config import kube_config

from tier import settings


@contextmanager
def kubeconfig(path):
    """Makes the Python client of Kubernetes read this kubeconfig; its temporary files are removed with the run's."""
    directory = settings.WORK / "admin"
    directory.mkdir(exist_ok=True)
    with (
        mock.patch.object(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(path)),
        mock.patch.object(tempfile, "tempdir", str(directory)),
    ):
        yield
