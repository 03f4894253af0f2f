"""Test data of the synchronize plays. It runs on the controller and, read from standard input, in the pod.

tree.py make DIR    makes a tree of files that copies often get wrong
tree.py show PATH   prints type, mode, time, size and digest of each file below PATH, one per line
tree.py names DIR   prints the relative name of each file below DIR, one per line
"""

import hashlib
import os
import shutil
import sys

NAMES = [
    b"kept",
    b"a.log",
    b"-n",
    b"with space",
    b"quote'\"",
    b"new\nline",
    b"not\xffutf8",
    "ünï".encode(),
    b"*[a]?",
    b"\\",
    b"~",
    b"end ",
    b"$HOME",
]


def make(root):
    # Another play of the same run may have made the directory.
    shutil.rmtree(root, ignore_errors=True)
    os.makedirs(os.path.join(root, b"deep", b"er", b"est"))
    os.makedirs(os.path.join(root, b"empty dir"))
    for number, name in enumerate(NAMES):
        for directory in (b"", b"deep/er/est"):
            path = os.path.join(root, directory, name)
            with open(path, "wb") as file:
                file.write(name * number * 1000)
            os.chmod(path, [0o644, 0o600, 0o755, 0o444][number % 4])
            # Times with and without fractions of a second, and before 1970.
            os.utime(path, ns=(0, (number - 2) * 86400 * 10**9 + (number % 2) * 123456789))
    os.symlink(b"nowhere \xff", os.path.join(root, b"broken link"))
    os.symlink(b"deep", os.path.join(root, b"link"))
    with open(os.path.join(root, b"sparse"), "wb") as file:
        file.truncate(10_000_000)
    os.chmod(os.path.join(root, b"deep", b"er"), 0o2750)
    for directory, _directories, _files in os.walk(root, topdown=False):
        os.utime(directory, ns=(0, 10**18))


def show(path, name=b"."):
    status = os.lstat(path)
    facts = [oct(status.st_mode)]
    if os.path.islink(path):
        facts.append(ascii(os.readlink(path)))
    else:
        facts.append(status.st_mtime_ns)
    if os.path.isfile(path) and not os.path.islink(path):
        with open(path, "rb") as file:
            facts += [status.st_size, hashlib.sha256(file.read()).hexdigest()]
    print(ascii(name), *facts)
    if os.path.isdir(path) and not os.path.islink(path):
        for entry in sorted(os.listdir(path)):
            show(os.path.join(path, entry), os.path.join(name, entry))


def names(root):
    for directory, directories, files in os.walk(root):
        for entry in directories + files:
            print(os.path.relpath(os.path.join(directory, entry), root).decode(errors="backslashreplace"))


if __name__ == "__main__":
    {"make": make, "show": show, "names": names}[sys.argv[1]](os.fsencode(sys.argv[2]))
