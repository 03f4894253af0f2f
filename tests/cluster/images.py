#!/usr/bin/env python3
"""Builds an image of the test cluster, as an archive that `ctr images import` and `docker load` read.

pause    localhost/podbridge-test/pause:1    holds a pod's namespaces
busybox  localhost/podbridge-test/busybox:1  a shell and small tools, no Python
debian   localhost/podbridge-test/debian:1   Python, git, rsync, sshd, zip, hexdump, sudo; users tester (1000; sudo
                                            without password) and pwuser (1001; password
                                            "podbridge", sudo and su with it)
"""

import argparse
import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "../../packaging/images"))

import debian  # noqa: E402
import oci  # noqa: E402

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PACKAGES = (
    *("python3-minimal", "python3", "python3-apt", "git", "rsync", "openssh-server", "sudo", "passwd", "procps", "acl"),
    *("unzip", "zip", "bsdextrautils"),
)
# tester becomes another user without a password, pwuser with one.
SUDOERS = "tester ALL=(ALL:ALL) NOPASSWD: ALL\npwuser ALL=(ALL:ALL) ALL"
# Password of pwuser and root; only tests reach these containers.
PASSWORD = "podbridge"


def busybox():
    """Returns the path and the content of the static busybox of this machine."""
    path = shutil.which("busybox")
    if path is None:
        raise SystemExit("images.py: busybox is missing; install busybox-static")
    with open(path, "rb") as f:
        return path, f.read()


def write_layer(path, layer):
    with open(path, "wb") as f:
        f.write(layer.tar())


def pause_layer(path):
    layer = oci.Layer()
    layer.file("bin/busybox", busybox()[1], 0o755)
    write_layer(path, layer)


def busybox_layer(path):
    program, data = busybox()
    layer = oci.Layer()
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
    write_layer(path, layer)


def debian_layer(path):
    """Writes a Debian system, from the package sources of this machine."""
    hooks = [
        'chroot "$1" useradd --create-home --uid 1000 --shell /bin/bash tester',
        'chroot "$1" useradd --create-home --uid 1001 --shell /bin/bash pwuser',
        f'printf "pwuser:{PASSWORD}\\nroot:{PASSWORD}\\n" | chroot "$1" chpasswd',
        f'echo "{SUDOERS}" >"$1/etc/sudoers.d/tester"',
        'chmod 440 "$1/etc/sudoers.d/tester"',
        'rm -f "$1/etc/apt/apt.conf.d/99mmdebstrap" "$1/etc/resolv.conf" "$1/etc/hostname"',
    ]
    debian.bootstrap(
        path,
        "--variant=apt",
        "--include=" + ",".join(PACKAGES),
        "--skip=output/dev",
        *[f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")],
        *["--customize-hook=" + h for h in hooks],
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
            "architecture": oci.ARCHITECTURES[platform.machine()],
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
    options = parser.parse_args()
    build, command = IMAGES[options.image]
    # The archive is written to a temporary directory and renamed, so that it is complete when it appears.
    with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.abspath(options.out))) as work:
        os.chmod(work, 0o755)
        layer, out = os.path.join(work, "layer.tar"), os.path.join(work, "image.tar")
        build(layer)
        archive(options.image, layer, command, out)
        os.replace(out, options.out)


if __name__ == "__main__":
    main()
