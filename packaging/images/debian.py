"""The files of podbridge-agent-git that come from Debian: git, rsync, a shell, and the libraries that they need.

mmdebstrap fetches and unpacks the packages. It runs none of their programs, so it does the same for an architecture
that this machine cannot execute. Perl and what manages packages are left out. `build` calls this file; the images of
the test cluster (tests/cluster/images.py) are bootstrapped by it, too.
"""

import glob
import os
import platform
import re
import subprocess
import tarfile
import tempfile

from oci import ARCHITECTURES

PACKAGES = ("git", "rsync", "dash", "coreutils", "findutils", "grep", "sed", "ca-certificates")

# Names of the files that the image gets.
WANTED = re.compile(
    r"bin/|lib/|lib64/|usr/bin/|usr/lib/git-core/|usr/share/git-core/"
    r"|usr/lib/[^/]+-linux-gnu/[^/]*\.so[^/]*$|usr/share/ca-certificates/.*\.crt$"
)
# Of these: what belongs to Perl, or to the management of packages and services.
UNWANTED = re.compile(
    r"(usr/bin/(perl|dpkg|debconf|deb-systemd|update-|ischroot|savelog|c_rehash|openssl)"
    r"|bin/(run-parts|tempfile|tar$)|lib/(systemd|udev|init|lsb)|usr/share/git-core/contrib"
    r"|usr/lib/[^/]+/(libperl|libdb-)"
    r"|usr/lib/git-core/(git-gui|git-citool|gitk|git-cvs|git-svn|git-p4))"
)
CERTIFICATES = "usr/share/ca-certificates/"


def add(layer, architecture):
    """Adds the files to the layer. The package versions are in the file usr/share/podbridge/packages of the image."""
    certificates = {}
    with tempfile.TemporaryDirectory() as work:
        tree, packages = os.path.join(work, "tree.tar"), os.path.join(work, "packages")
        fetch(architecture, tree, packages)
        with open(packages) as f:
            layer.file("usr/share/podbridge/packages", f.read().replace("%3a", ":").replace(".deb", "").encode())
        with tarfile.open(tree) as tar:
            for member in tar:
                name = member.name.removeprefix("./").rstrip("/")
                if not WANTED.match(name) or UNWANTED.match(name):
                    continue
                if name.startswith(CERTIFICATES):
                    certificates[name] = tar.extractfile(member).read()
                elif member.issym():
                    layer.symlink(name, member.linkname)
                elif member.islnk() or member.isfile():
                    # A link to a file that is left out becomes a file.
                    data = tar.extractfile(member).read()
                    if not data.startswith(b"#!/usr/bin/perl"):
                        layer.file(name, data, member.mode & 0o755)
    layer.file("etc/ssl/certs/ca-certificates.crt", b"".join(certificates[name] for name in sorted(certificates)))


def fetch(architecture, tree, packages):
    """Writes a tar file of the unpacked packages, and the list of their files."""
    bootstrap(
        tree,
        "--variant=extract",
        "--architectures=" + ARCHITECTURES[architecture],
        "--include=" + ",".join(PACKAGES),
        f'--extract-hook=cd "$1/var/cache/apt/archives" && LC_ALL=C ls | grep "[.]deb$" >"{packages}"',
    )


def bootstrap(tree, *options):
    """Writes a tar file of a Debian system like this machine's, from the package sources of this machine."""
    suite = platform.freedesktop_os_release()["VERSION_CODENAME"]
    command = ["mmdebstrap", "--quiet", "--mode=root", "--format=tar", *options, *proxies(), suite, tree, *sources()]
    try:
        subprocess.run(command, check=True)
    except FileNotFoundError:
        raise SystemExit("images: mmdebstrap is missing; install it with: apt-get install mmdebstrap") from None
    except subprocess.CalledProcessError:
        raise SystemExit("images: the Debian packages could not be fetched; mmdebstrap says why above") from None


def sources():
    """Returns the files with the package sources of this machine's apt."""
    patterns = ("/etc/apt/sources.list", "/etc/apt/sources.list.d/*.sources", "/etc/apt/sources.list.d/*.list")
    return [path for pattern in patterns for path in sorted(glob.glob(pattern)) if os.path.getsize(path)]


def proxies():
    """Returns the proxy settings of this machine's apt as options for mmdebstrap."""
    dump = subprocess.run(["apt-config", "dump"], check=True, text=True, stdout=subprocess.PIPE).stdout
    return [
        "--aptopt=" + line.rstrip(";")
        for line in dump.splitlines()
        if line.lower().startswith("acquire::") and "proxy" in line.split(" ")[0].lower() and not line.endswith('"";')
    ]
