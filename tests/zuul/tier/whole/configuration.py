"""Files of the services: certificates, settings of Zuul and nodepool, and the Git repositories with the jobs."""

import configparser
import json
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from tier import kube, settings

SOURCES = settings.ROOT / "tests" / "zuul" / "whole"
PROJECTS = ("config", "project")
GIT_AUTHOR = ("-c", "user.name=Zuul", "-c", "user.email=zuul@example.com")


def free_port():
    """Returns a port of this network namespace that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@dataclass
class Configuration:
    """Paths and ports of the services of one run; `prefix` begins the names of the namespaces that nodepool makes."""

    directory: Path
    prefix: str

    def __post_init__(self):
        self.zookeeper_port, self.finger_port = free_port(), free_port()
        self.database = None  # set when PostgreSQL's directory is known
        for name in ("state", "git", "merger-git", "builds", "home", "zookeeper", "repositories"):
            (self.directory / name).mkdir(parents=True)
        self.builds = self.directory / "builds"
        self.zuul = self.directory / "zuul.conf"
        self.nodepool = self.directory / "nodepool.yaml"
        self.certificate, self.key = self.directory / "cert.pem", self.directory / "key.pem"

    def write_certificate(self):
        """Writes one certificate for ZooKeeper and its clients; it is its own authority."""
        command = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost")
        names = ("-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost")
        out = ("-keyout", str(self.key), "-out", str(self.certificate))
        subprocess.run([*command, *names, *out], check=True, capture_output=True)
        (self.directory / "both.pem").write_text(self.key.read_text() + self.certificate.read_text())

    def write_zookeeper(self):
        lines = {
            "dataDir": self.directory / "zookeeper",
            "secureClientPort": self.zookeeper_port,
            "secureClientPortAddress": "127.0.0.1",
            "serverCnxnFactory": "org.apache.zookeeper.server.NettyServerCnxnFactory",
            "ssl.keyStore.location": self.directory / "both.pem",
            "ssl.trustStore.location": self.certificate,
            "ssl.hostnameVerification": "false",
            "admin.enableServer": "false",
            "maxClientCnxns": 0,
        }
        path = self.directory / "zoo.cfg"
        path.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
        return path

    def write_zuul(self):
        """Writes zuul.conf; only paths, ports and what a test needs differ from an operator's."""
        ro_paths = ":".join(settings.ro_paths())
        config = configparser.ConfigParser()
        config["zookeeper"] = {
            "hosts": f"127.0.0.1:{self.zookeeper_port}",
            "tls_cert": self.certificate,
            "tls_key": self.key,
            "tls_ca": self.certificate,
        }
        config["keystore"] = {"password": "secret"}
        config["database"] = {"dburi": self.database}
        config["scheduler"] = {
            "tenant_config": self.directory / "tenants.yaml",
            "state_dir": self.directory / "state",
            "command_socket": self.directory / "scheduler.socket",
        }
        config["merger"] = {"git_dir": self.directory / "merger-git", "git_user_email": "z@example.com"}
        config["executor"] = {
            "state_dir": self.directory / "state",
            "command_socket": self.directory / "executor.socket",
            "git_dir": self.directory / "git",
            "job_dir": self.builds,
            "finger_port": self.finger_port,
            "ansible_root": settings.ANSIBLE,
            "manage_ansible": "false",
            "private_key_file": self.key,
            "trusted_ro_paths": ro_paths,
            "untrusted_ro_paths": ro_paths,
            "sigterm_method": "stop",
            "disk_limit_per_job": -1,
            # The machine of a test is busy with other tests.
            "load_multiplier": 1000,
            "min_avail_mem": 0.1,
            "min_avail_hdd": 0.1,
        }
        config["connection git"] = {
            "driver": "git",
            "baseurl": f"file://{self.directory}/repositories",
            "poll_delay": 1,
        }
        for section in config.sections():
            for name, value in config[section].items():
                config[section][name] = str(value)
        with open(self.zuul, "w") as file:
            config.write(file)
        tenant = {
            "name": "tenant",
            "source": {"git": {"config-projects": ["config"], "untrusted-projects": ["project"]}},
        }
        (self.directory / "tenants.yaml").write_text(json.dumps([{"tenant": tenant}]))

    def write_nodepool(self, contexts):
        """Writes nodepool.yaml; `contexts` are those of the kubeconfig for the cluster and for the shared project."""
        image = kube.IMAGES["debian"]
        user = {"securityContext": {"runAsUser": 1000, "runAsGroup": 1000}}
        labels = [
            {"name": "by-image", "type": "pod", "image": image, "image-pull": "IfNotPresent"},
            {"name": "by-spec", "type": "pod", "spec": kube.pod_spec(**user)},
            {"name": "own-namespace", "type": "namespace"},
        ]
        project = {"name": "project-pod", "image": image, "image-pull": "IfNotPresent"}
        pools = {"kubernetes": (self.prefix, labels), "openshiftpods": (f"{self.prefix}-project", [project])}
        providers = [
            {
                "name": driver,
                "driver": driver,
                "context": context,
                "pools": [{"name": pools[driver][0], "labels": pools[driver][1]}],
            }
            for driver, context in contexts.items()
        ]
        config = {
            "zookeeper-servers": [{"host": "127.0.0.1", "port": self.zookeeper_port}],
            "zookeeper-tls": {"cert": str(self.certificate), "key": str(self.key), "ca": str(self.certificate)},
            "labels": [{"name": label["name"]} for label in [*labels, project]],
            "providers": providers,
        }
        self.nodepool.write_text(json.dumps(config))

    def write_repositories(self):
        for name in PROJECTS:
            path = self.directory / "repositories" / name
            shutil.copytree(SOURCES / name, path)
            for file in path.rglob("*.yaml"):
                file.write_text(file.read_text().replace("localhost/podbridge-test/debian:1", kube.IMAGES["debian"]))
            subprocess.run(["git", "init", "--quiet", "--initial-branch", "master", path], check=True)
            self.commit(name, "first")

    def commit(self, name, text):
        """Adds a commit to a repository; Zuul's git driver sees it within a second."""
        path = self.directory / "repositories" / name
        (path / "README").write_text(f"{text}\n")
        subprocess.run(["git", "-C", path, "add", "."], check=True)
        subprocess.run(["git", "-C", path, *GIT_AUTHOR, "commit", "--quiet", "-m", text], check=True)


def python_program(name):
    """Returns the path of a program beside this Python: one of Zuul."""
    return str(Path(sys.executable).with_name(name))
