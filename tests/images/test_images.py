"""Tests of the images of `make images`: reproducible, complete, and usable by the tools that people have.

`make test-images` runs them as root. IMAGES is the directory of the archives; BINARIES has an ARCHITECTURE=DIRECTORY
for each architecture, as packaging/images/build takes them.
"""

import filecmp
import functools
import hashlib
import io
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tarfile

import pytest

ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), "../.."))
IMAGES = os.environ["IMAGES"]
BINARIES = [word.split("=", 1) for word in os.environ["BINARIES"].split()]
NAMES = ("podbridge-agent", "podbridge-agent-git", "podbridge-executor")
OCI_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
ARCHITECTURE = OCI_ARCHITECTURES[platform.machine()]
E_MACHINE = {"amd64": 62, "arm64": 183}


class Image:
    """One archive, read as a registry would read it."""

    def __init__(self, name):
        with tarfile.open(os.path.join(IMAGES, name + ".tar")) as tar:
            self.members = tar.getmembers()
            self.files = {member.name: tar.extractfile(member).read() for member in self.members if member.isfile()}
        self.index = json.loads(self.files["index.json"])

    def blob(self, descriptor):
        data = self.files["blobs/" + descriptor["digest"].replace(":", "/")]
        assert len(data) == descriptor["size"]
        assert "sha256:" + hashlib.sha256(data).hexdigest() == descriptor["digest"]
        return data

    def manifests(self):
        """Yields architecture, configuration and layer."""
        for descriptor in json.loads(self.blob(self.index["manifests"][0]))["manifests"]:
            manifest = json.loads(self.blob(descriptor))
            config = json.loads(self.blob(manifest["config"]))
            (layer,) = manifest["layers"]
            assert config["rootfs"]["diff_ids"] == [layer["digest"]]
            assert len(config["history"]) == 1
            assert config["architecture"] == descriptor["platform"]["architecture"]
            yield config["architecture"], config, self.blob(layer)

    def unpack(self, directory, architecture=ARCHITECTURE):
        ((_, config, layer),) = [manifest for manifest in self.manifests() if manifest[0] == architecture]
        with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
            tar.extractall(directory, **({"filter": "fully_trusted"} if hasattr(tarfile, "data_filter") else {}))
        return config


@pytest.fixture(scope="session")
def inside(tmp_path_factory):
    """Returns a function that unpacks an image and returns one that runs a command in it."""

    @functools.cache
    def unpack(name):
        root = str(tmp_path_factory.mktemp(name))
        os.chmod(root, 0o755)
        config = Image(name).unpack(root)
        os.makedirs(root + "/dev", exist_ok=True)
        script = 'mount --bind /dev "$0/dev" && exec chroot --userspec="$1" "$0" "${@:2}"'

        def run(*command, uid=0, **options):
            environment = dict(variable.split("=", 1) for variable in config["config"]["Env"])
            return subprocess.run(
                ["unshare", "--mount", "bash", "-c", script, root, f"{uid}:0", *command],
                env={"PATH": os.environ["PATH"], **environment},
                capture_output=True,
                text=True,
                timeout=60,
                **options,
            )

        return run

    return unpack


def test_a_second_build_elsewhere_gives_the_same_bytes(tmp_path):
    """Other directory, times, modes and locale: the archives are equal."""
    version = Image(NAMES[0]).index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"]
    command = [sys.executable, f"{ROOT}/packaging/images/build", str(tmp_path / "out"), "--version", version]
    for architecture, directory in reversed(BINARIES):
        copies = tmp_path / architecture
        copies.mkdir()
        for name in ("podbridge", "podbridge-agent"):
            shutil.copyfile(os.path.join(directory, name), copies / name)
        command += ["--binaries", f"{architecture}={copies}"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LC_ALL": "C", "TZ": "Asia/Tokyo"}
    built = subprocess.run(
        ["sh", "-c", 'umask 077; exec "$@"', "sh", *command], env=environment, capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    for name in NAMES:
        first, second = (os.path.join(place, name + ".tar") for place in (IMAGES, tmp_path / "out"))
        assert filecmp.cmp(first, second, shallow=False), f"{name} differs"
    with open(os.path.join(IMAGES, "digests")) as f:
        assert f.read() == built.stdout


@pytest.mark.parametrize("name", NAMES)
def test_an_archive_is_an_oci_layout(name):
    image = Image(name)
    assert json.loads(image.files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    annotations = image.index["manifests"][0]["annotations"]
    tag = annotations["org.opencontainers.image.ref.name"]
    assert annotations["io.containerd.image.name"] == f"localhost/{name}:{tag}"
    assert {member.mtime for member in image.members} == {0}
    manifests = list(image.manifests())
    assert ARCHITECTURE in [architecture for architecture, _config, _layer in manifests]
    for architecture, _config, layer in manifests:
        with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
            seen = set()
            for member in tar:
                assert (member.mtime, member.uid, member.gid) == (0, 0, 0), member.name
                assert member.mode & 0o6000 == 0, f"{member.name} has a set-id bit"
                parent = os.path.dirname(member.name)
                assert not parent or parent in seen, f"{member.name} comes before its directory"
                assert not member.islnk() or member.linkname in seen, f"{member.name} links to a later file"
                seen.add(member.name)
                content = tar.extractfile(member).read(20) if member.isreg() else b""
                if content.startswith(b"\x7fELF"):
                    # An executor has the agents of all machine types.
                    machine = member.name.partition("podbridge-agent-")[2]
                    expected = E_MACHINE[OCI_ARCHITECTURES.get(machine, architecture)]
                    assert int.from_bytes(content[18:20], "little") == expected, member.name


@pytest.mark.parametrize("name", ["podbridge-agent", "podbridge-agent-git"])
@pytest.mark.parametrize("program", ["/podbridge-agent", "/usr/bin/podbridge-agent", "podbridge-agent"])
def test_the_agent_runs_by_each_of_its_names(inside, name, program):
    ran = inside(name)(program, "version")
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith("podbridge-agent ")


def test_the_scratch_image_has_the_agent_alone():
    for _architecture, config, layer in Image("podbridge-agent").manifests():
        assert config["config"]["Entrypoint"] == ["/podbridge-agent"]
        with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
            names = [member.name for member in tar if not member.isdir()]
        assert names == ["etc/group", "etc/passwd", "podbridge-agent", "usr/bin/podbridge-agent"]


def test_every_program_of_the_git_image_finds_its_libraries(inside):
    script = r"""
        loader=$(echo /lib*/ld-linux-*.so.*)
        for program in /usr/bin/* /bin/* /usr/lib/git-core/*; do
            case $(head -c 4 "$program" 2>/dev/null | tail -c 3) in ELF) ;; *) continue ;; esac
            [ "$program" != /usr/bin/podbridge-agent ] || continue
            "$loader" --list "$program" >/dev/null || echo "$program"
        done
    """
    ran = inside("podbridge-agent-git")("sh", "-c", script)
    assert (ran.stdout, ran.stderr) == ("", "")


GIT_COMMANDS = {
    "push": "git init -q --bare b && git -C a push -q ../b HEAD:main && git -C b cat-file -e main",
    "clone": "git clone -q a c && test -d c/.git",
    "submodule": "git init -q s && git -C s commit -q --allow-empty -m s && git -C a -c protocol.file.allow=always "
    "submodule --quiet add ../s sub && test -f a/.gitmodules",
    "rsync": "rsync -a --delete a/ d/ && test -d d/.git",
    "find": "find a -name HEAD | grep -q HEAD",
}


@pytest.mark.parametrize("name", GIT_COMMANDS)
@pytest.mark.parametrize("uid", [0, 1000670000])
def test_git_and_rsync_work_also_as_a_random_user(inside, name, uid):
    prepare = (
        "set -e; export HOME=/tmp GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b; "
        "cd $(mktemp -d); git init -q a; git -C a commit -q --allow-empty -m one; "
    )
    ran = inside("podbridge-agent-git")("sh", "-c", prepare + GIT_COMMANDS[name], uid=uid)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_git_trusts_the_usual_authorities(inside):
    run = inside("podbridge-agent-git")
    # Nothing listens there: the error of a missing library or certificate file would come first.
    ran = run("git", "ls-remote", "https://127.0.0.1:1/")
    assert "Failed to connect" in ran.stderr
    assert int(run("grep", "-c", "BEGIN CERTIFICATE", "/etc/ssl/certs/ca-certificates.crt").stdout) > 100


def test_the_git_image_names_its_packages(inside):
    listed = inside("podbridge-agent-git")("cat", "/usr/share/podbridge/packages").stdout.splitlines()
    assert any(line.startswith("git_1:2.") and line.endswith("_" + ARCHITECTURE) for line in listed), listed


FOREIGN = [machine for machine, _directory in BINARIES if machine != platform.machine()]
# Programs that say something without a server, and what it begins with. qemu-user has no PR_SET_CHILD_SUBREAPER, so the
# agent cannot serve under it.
FOREIGN_PROGRAMS = {
    "podbridge-agent version": "podbridge-agent ",
    "usr/bin/git --version": "git version ",
    "usr/bin/rsync --version": "rsync ",
    "usr/lib/git-core/git-remote-https": "",
    "bin/sh -c 'echo shell'": "shell",
}


@pytest.fixture(scope="session")
def foreign_root(tmp_path_factory):
    """Returns a function that unpacks podbridge-agent-git for another machine type, once."""

    @functools.cache
    def unpack(machine):
        root = tmp_path_factory.mktemp(machine)
        Image("podbridge-agent-git").unpack(root, OCI_ARCHITECTURES[machine])
        return str(root)

    return unpack


@pytest.mark.parametrize("machine", FOREIGN)
@pytest.mark.parametrize("command", FOREIGN_PROGRAMS)
def test_programs_of_another_architecture_run_under_qemu(foreign_root, machine, command):
    root = foreign_root(machine)
    words = shlex.split(command)
    command_line = [f"qemu-{machine}", "-L", root, f"{root}/{words[0]}", *words[1:]]
    ran = subprocess.run(command_line, capture_output=True, text=True, timeout=60)
    assert ran.stdout.startswith(FOREIGN_PROGRAMS[command])
    assert "shared libraries" not in ran.stderr


@pytest.mark.parametrize("machine", FOREIGN)
def test_an_init_container_of_another_architecture_installs_its_agent(foreign_root, machine, tmp_path):
    root = foreign_root(machine)
    # The agent copies its own file, which under qemu-user is found by the path that it was started with.
    command_line = [f"qemu-{machine}", f"{root}/podbridge-agent", "install", str(tmp_path)]
    ran = subprocess.run(command_line, capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert filecmp.cmp(f"{root}/podbridge-agent", tmp_path / "podbridge-agent", shallow=False)


class Buildah:
    """buildah with a storage of its own, which needs no registry and no daemon."""

    def __init__(self, directory):
        self.directory = str(directory)
        # The policy is that of a new installation; a machine may have none.
        policy = directory / "policy.json"
        policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        self.storage = ["--root", f"{directory}/root", "--runroot", f"{directory}/run", "--storage-driver", "vfs"]
        self.policy = ["--signature-policy", str(policy)]

    def __call__(self, command, *arguments, policy=True):
        environment = {"PATH": os.environ["PATH"], "HOME": self.directory, "TMPDIR": self.directory}
        ran = subprocess.run(
            ["buildah", *self.storage, command, *(self.policy if policy else []), *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.strip()

    def load(self, name):
        """Takes an archive of `make images`, and returns the name that the Containerfile gets for it."""
        identifier = self("pull", "--quiet", f"oci-archive:{IMAGES}/{name}.tar")
        self("tag", identifier, f"localhost/{name}:test", policy=False)
        return f"localhost/{name}:test"


@pytest.fixture(scope="session")
def executor(tmp_path_factory):
    """The executor image on a stand-in for Zuul's: the same PATH, the same places, a kubectl of its own."""
    buildah = Buildah(tmp_path_factory.mktemp("buildah"))
    context = tmp_path_factory.mktemp("zuul")
    (context / "kubectl").write_text("#!/bin/sh\necho stock kubectl\n")
    (context / "kubectl").chmod(0o755)
    (context / "Containerfile").write_text(
        f"FROM {buildah.load('podbridge-agent-git')}\n"
        "COPY kubectl /usr/local/bin/kubectl\n"
        "RUN mkdir -p /usr/local/lib/zuul/ansible/9/lib/python3.11/site-packages"
        " /usr/local/lib/zuul/ansible/11/lib/python3.13/site-packages\n"
        "ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin\n"
        'ENTRYPOINT ["/usr/local/bin/zuul-executor"]\n'
        'CMD ["-f"]\n'
    )
    buildah("build", "--isolation", "chroot", "--quiet", "--tag", "localhost/zuul-executor:test", str(context))
    built = buildah(
        *("build", "--isolation", "chroot", "--quiet", "--build-arg", "ZUUL=localhost/zuul-executor:test"),
        *("--build-arg", f"PODBRIDGE={buildah.load('podbridge-executor')}", f"{ROOT}/packaging/zuul"),
    )
    container = buildah("from", "--quiet", built)
    config = json.loads(buildah("inspect", "--type", "image", built, policy=False))["OCIv1"]["config"]
    return config, lambda *command: buildah("run", "--isolation", "chroot", container, "--", *command, policy=False)


def test_the_executor_finds_the_shim_first_and_the_stock_kubectl_behind_it(executor):
    _config, run = executor
    for name in ("podbridge", "podbridge-ssh", "kubectl", "oc"):
        assert run("which.debianutils", name) == f"/usr/local/sbin/{name}"
    assert run("podbridge", "--version").startswith("podbridge ")
    assert run(f"/usr/local/sbin/podbridge-agent-{platform.machine()}", "version").startswith("podbridge-agent ")
    assert run("kubectl", "version", "--client") == "stock kubectl"


def test_the_executor_gets_the_plugin_and_the_work_around(executor):
    config, run = executor
    variables = dict(variable.split("=", 1) for variable in config["Env"])
    assert variables["PATH"] == "/usr/local/sbin:/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
    plugins = variables["ANSIBLE_CONNECTION_PLUGINS"]
    assert run("ls", plugins).split() == ["kubectl.py", "oc.py"]
    for name in ("kubectl.py", "oc.py"):
        with open(f"{ROOT}/ansible/plugins/connection/{name}") as f:
            assert run("cat", f"{plugins}/{name}") == f.read().strip()
    with open(f"{ROOT}/packaging/zuul/podbridge-preimport.pth") as f:
        work_around = f.read().strip()
    for site in ("9/lib/python3.11", "11/lib/python3.13"):
        assert run("cat", f"/usr/local/lib/zuul/ansible/{site}/site-packages/podbridge-preimport.pth") == work_around


def test_the_executor_starts_as_before(executor):
    config, _run = executor
    assert (config["Entrypoint"], config["Cmd"]) == (["/usr/local/bin/zuul-executor"], ["-f"])
