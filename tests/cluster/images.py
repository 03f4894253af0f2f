#!/usr/bin/env python3
"""Builds an image of the test cluster, as an archive that `ctr images import` and `docker load` read.

pause    localhost/podbridge-test/pause:1    holds a pod's namespaces
busybox  localhost/podbridge-test/busybox:1  a shell and small tools, no Python
debian   localhost/podbridge-test/debian:1   Python, git, rsync, sshd, zip, hexdump, sudo; users tester (1000; sudo
                                            without password) and pwuser (1001; password
                                            "podbridge", sudo and su with it)
"""

import argparse
import glob
import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
# tester becomes another user without a password, pwuser with one.
SUDOERS = "tester ALL=(ALL:ALL) NOPASSWD: ALL\npwuser ALL=(ALL:ALL) ALL"
# Password of pwuser and root; only tests reach these containers.
PASSWORD = "podbridge"


class Layer:
    """Uncompressed layer of an image, as a tar file at `path`."""

    def __init__(self, path):
        self.tar = tarfile.open(path, "w")

    def add(self, name, kind, mode, data=b"", link=""):
        info = tarfile.TarInfo(name)
        info.type, info.mode, info.linkname, info.size = kind, mode, link, len(data)
        self.tar.addfile(info, io.BytesIO(data))

    def directory(self, name, mode=0o755):
        self.add(name, tarfile.DIRTYPE, mode)

    def file(self, name, data, mode=0o644):
        self.add(name, tarfile.REGTYPE, mode, data)

    def symlink(self, name, target):
        self.add(name, tarfile.SYMTYPE, 0o777, link=target)


def busybox():
    """Returns the path and the content of the static busybox of this machine."""
    path = shutil.which("busybox")
    if path is None:
        raise SystemExit("images.py: busybox is missing; install busybox-static")
    with open(path, "rb") as f:
        return path, f.read()


def pause_layer(path, _options):
    layer = Layer(path)
    layer.directory("bin")
    layer.file("bin/busybox", busybox()[1], 0o755)
    layer.tar.close()


def busybox_layer(path, _options):
    program, data = busybox()
    layer = Layer(path)
    for name in ("bin", "etc", "home", "root", "proc", "sys", "dev", "var"):
        layer.directory(name)
    for name in ("tmp", "var/tmp"):
        layer.directory(name, 0o1777)
    layer.file("bin/busybox", data, 0o755)
    layer.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
    layer.file("etc/group", b"root:x:0:\nnogroup:x:65534:\n")
    applets = subprocess.run([program, "--list"], check=True, text=True, stdout=subprocess.PIPE).stdout.split()
    for name in applets:
        if name != "busybox":
            layer.symlink("bin/" + name, "busybox")
    layer.tar.close()


def apt_proxy():
    """Returns the apt proxy settings of this machine as options for mmdebstrap."""
    dump = subprocess.run(["apt-config", "dump"], check=True, text=True, stdout=subprocess.PIPE).stdout
    lines = [
        line.rstrip(";")
        for line in dump.splitlines()
        if line.lower().startswith("acquire::") and "proxy" in line.split(" ")[0].lower() and not line.endswith('"";')
    ]
    return ["--aptopt=" + line for line in lines]


def debian_layer(path, options):
    """Writes a Debian system, from the package sources of this machine."""
    sources = [
        p
        for pattern in ("/etc/apt/sources.list", "/etc/apt/sources.list.d/*.sources", "/etc/apt/sources.list.d/*.list")
        for p in sorted(glob.glob(pattern))
        if os.path.getsize(p)
    ]
    hooks = [
        'chroot "$1" useradd --create-home --uid 1000 --shell /bin/bash tester',
        'chroot "$1" useradd --create-home --uid 1001 --shell /bin/bash pwuser',
        f'printf "pwuser:{PASSWORD}\\nroot:{PASSWORD}\\n" | chroot "$1" chpasswd',
        f'echo "{SUDOERS}" >"$1/etc/sudoers.d/tester"',
        'chmod 440 "$1/etc/sudoers.d/tester"',
        'rm -f "$1/etc/apt/apt.conf.d/99mmdebstrap" "$1/etc/resolv.conf" "$1/etc/hostname"',
    ]
    subprocess.run(
        [
            "mmdebstrap",
            "--quiet",
            "--mode=root",
            "--format=tar",
            "--variant=apt",
            "--include=python3-minimal,python3,python3-apt,git,rsync,openssh-server,sudo,passwd,procps,acl,unzip,zip,bsdextrautils",
            "--skip=output/dev",
            "--dpkgopt=path-exclude=/usr/share/doc/*",
            "--dpkgopt=path-exclude=/usr/share/man/*",
            "--dpkgopt=path-exclude=/usr/share/locale/*",
            *apt_proxy(),
            *["--customize-hook=" + h for h in hooks],
            options.suite,
            path,
            *sources,
        ],
        check=True,
    )


IMAGES = {
    "pause": (pause_layer, ["/bin/busybox", "sleep", "2147483647"]),
    "busybox": (busybox_layer, ["/bin/sh"]),
    "debian": (debian_layer, ["/bin/bash"]),
}


def archive(name, layer, command, out):
    """Writes the archive of an image: a manifest, a configuration and one layer."""
    digest = hashlib.sha256()
    with open(layer, "rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    config = json.dumps(
        {
            "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
            "os": "linux",
            "config": {"Env": ["PATH=" + PATH, "LANG=C.UTF-8"], "Cmd": command},
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + digest.hexdigest()]},
            "history": [{"created_by": "podbridge tests"}],
        }
    ).encode()
    config_name = hashlib.sha256(config).hexdigest() + ".json"
    layer_name = digest.hexdigest() + "/layer.tar"
    manifest = json.dumps(
        [{"Config": config_name, "Layers": [layer_name], "RepoTags": [f"localhost/podbridge-test/{name}:1"]}]
    ).encode()
    with tarfile.open(out, "w") as tar:
        for entry, data in ((config_name, config), ("manifest.json", manifest)):
            info = tarfile.TarInfo(entry)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        tar.add(layer, layer_name)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", choices=IMAGES, help="name of the image")
    parser.add_argument("out", help="path of the archive to write")
    parser.add_argument("--suite", help="Debian suite of the image debian, for example bookworm")
    options = parser.parse_args()
    build, command = IMAGES[options.image]
    # The archive is written to a temporary directory and renamed, so that it is complete when it appears.
    with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.abspath(options.out))) as work:
        os.chmod(work, 0o755)
        layer, out = os.path.join(work, "layer.tar"), os.path.join(work, "image.tar")
        build(layer, options)
        archive(options.image, layer, command, out)
        os.replace(out, options.out)


if __name__ == "__main__":
    main()
