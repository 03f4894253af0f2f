"""Scenario of examples/native-job: a job that makes its registry, its image and its pods, alone and as a build set."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import time

from tier import kube, settings
from tier.build import playbook
from tier.scenarios.job_pods import collection
from tier.session import require_podbridge
from tier.watch import ProcessWatch

IMAGES = settings.ROOT / "dist" / "images"
EXAMPLE = settings.ROOT / "examples" / "native-job"
PROJECT = "review.example.com/org/project"
# A job may have a name that no pod can have.
CHILDREN = ("native-unit", "Native_API")
BUILDER = "localhost/podbridge-test/builder:1"


def variables():
    """Returns the variables of the jobs: the images, and how the node reaches the registry."""
    with open(IMAGES / "digests") as file:
        version = re.search(r"podbridge-agent:(\S+)", file.read())[1]
    return {
        "registry_image": BUILDER,
        "builder_image": BUILDER,
        "base_image": "docker-archive:/opt/images/base.tar",
        "sidecar_image": f"localhost/podbridge-agent-git:{version}",
        "agent_image": f"localhost/podbridge-agent:{version}",
        # The test cluster has no kube-proxy, and so no ports of services on its node.
        "podbridge_registry_reach": "pod",
    }


def native_job(session):
    """Job of examples/native-job, whole: registry, image, pods, repositories, tests, results."""
    require_podbridge()
    import_images()
    with collection():
        node = session.namespace_node("cluster")
        started = time.monotonic()
        build = prepare(session, [node], "native", "fetch")
        build.play()
        assert build.result == "SUCCESS", f"the result is {build.result} ({build.detail})"
        print(f"zuul: the native job took {time.monotonic() - started:.0f} s", file=sys.stderr)
        expect_native(build, node)


def import_images():
    of_podbridge = [IMAGES / f"{name}.tar" for name in ("podbridge-agent", "podbridge-agent-git")]
    command = [settings.ROOT / "tests/cluster/cluster", "import", settings.BUILDER, *of_podbridge]
    subprocess.run(command, env=settings.CLUSTER_ENVIRON, check=True)


def prepare(session, nodes, run, post=None, job="native", **options):
    """Returns a prepared build of playbooks of the example, with the project under test as its speculative checkout."""
    source = {"canonical_name": PROJECT, "src_dir": f"src/{PROJECT}", "checkout": "master"}
    build = session.build(
        nodes,
        run=[playbook(f"playbooks/{run}.yaml", "org/native")],
        post=[playbook(f"playbooks/{post}.yaml", "org/native")] if post else [],
        projects={"org/project": settings.PROJECT, "org/native": EXAMPLE},
        repositories=[PROJECT],
        variables=variables(),
        zuul={"projects": {PROJECT: source}},
        job=job,
        **options,
    )
    check_out(build)
    return build


def check_out(build, **files):
    """Commits the project under test and these files to its repository, as Zuul's merger leaves them."""
    checkout = os.path.join(build.jobdir.src_root, PROJECT)
    shutil.copytree(EXAMPLE / "project", checkout, dirs_exist_ok=True)
    for name, text in files.items():
        with open(os.path.join(checkout, name), "w") as file:
            file.write(text)
    commit = "git add . && git -c user.name=Zuul -c user.email=zuul@example.com commit --quiet -m change"
    subprocess.run(["sh", "-c", commit], cwd=checkout, check=True)


def expect_native(build, node):
    build.joblog().expect_once("tests | the program answers 1")
    with open(f"{build.jobdir.log_root}/pods/tests/result-native") as file:
        assert file.read() == "1"
    assert os.path.exists(f"{build.jobdir.log_root}/pods/app/pod.yaml")
    left = kube.kubectl("get", "pods,services", "-o", "name", namespace=node[1].name).decode().split()
    assert not [name for name in left if name.startswith("service/")], left
    kube.wait_for("the end of the pods", lambda: not kube.kubectl("get", "pods", "-o", "name", namespace=node[1].name))


def native_build_set(session):
    """Build set of examples/native-job: in the pause of the parent, the children use its image, pods and token."""
    require_podbridge()
    import_images()
    with collection(), ProcessWatch() as watch:
        node = session.namespace_node("cluster")
        secrets = run_build_set(session, node)
    for secret in secrets:
        watch.expect_none(secret)


def run_build_set(session, node):
    """Runs the build set and returns its secrets: the token and the password of the registry."""
    parent = prepare(session, [node], "build-and-share", "end-of-share", job="native-build")
    children, secrets = [], []

    def pause():
        with open(parent.jobdir.result_data_file) as file:
            shared = json.load(file)["secret_data"]
        assert is_valid(shared["podbridge_shared"]["token"]), "the token of the build set is not valid"
        for job in CHILDREN:
            child = prepare(session, [], "use-shared", "end-of-child", job=job, secret_parent_data=shared)
            child.play()
            assert child.result == "SUCCESS", f"the result of {job} is {child.result} ({child.detail})"
            with open(f"{child.jobdir.log_root}/pods/tests/result-{job}") as file:
                assert file.read() == "1", f"the result of {job} was not fetched"
            kube.wait_for("the end of the child's pod", lambda: not pods_of_children(node))
            children.append(child)
        secrets.extend((shared["podbridge_shared"]["token"], password(node)))

    parent.pause = pause
    parent.play()
    assert parent.result == "SUCCESS", f"the result is {parent.result} ({parent.detail})"
    # The parent runs no tests, and looks for no result.
    parent.joblog().refuse("result-native-build")
    for child in children:
        child.joblog().expect_once("tests | the program answers 1")
    for secret in secrets:
        expect_secret(secret, [parent, *children])
    token = secrets[0]
    assert not is_valid(token), "the token of the build set is valid after its end"
    return secrets


def pods_of_children(node):
    names = kube.kubectl("get", "pods", "-o", "name", namespace=node[1].name).decode().split()
    return [name for name in names if name.startswith("pod/child-")]


def is_valid(token):
    """Returns whether the API server takes a token. The watch would find it on a command line."""
    path, _context = kube.write_kubeconfig("shared", token=token)
    whoami = [settings.KUBECTL, "--kubeconfig", path, "auth", "whoami"]
    return subprocess.run(whoami, capture_output=True, env=kube.ADMIN).returncode == 0


def password(node):
    """Returns the password of the registry."""
    secret = ["get", "secret", "podbridge-registry-server", "-o", "jsonpath={.data.password}"]
    return base64.b64decode(kube.kubectl(*secret, namespace=node[1].name)).decode()


def expect_secret(secret, builds):
    """Asserts that the secret is in no log of these builds and in none of the executor."""
    logs = [settings.WORK / "executor.log"]
    for build in builds:
        logs += [build.jobdir.job_output_file, build.jobdir.job_output_file.replace(".txt", ".json")]
    for path in logs:
        with open(path, errors="replace") as file:
            assert secret not in file.read(), f"a secret of the build set is in {path}"
