"""Image `builder` for jobs that build images in the cluster: buildah, git, Python and Debian's docker-registry.

The archive of a small base image with Python is in it, at /opt/images/base.tar. `builder_image.py OUT` writes the
image's archive; tests/zuul/lib/zuul.sh calls it.
"""

import os
import sys
import tempfile

from images import archive, busybox, debian

# Debian's buildah has no policy of its own.
POLICY = '{"default": [{"type": "insecureAcceptAnything"}]}'
LEAN = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")]


def main(out):
    with tempfile.TemporaryDirectory(dir=os.path.dirname(os.path.abspath(out))) as work:
        os.chmod(work, 0o755)
        layer, base, image = f"{work}/layer.tar", f"{work}/base.tar", f"{work}/image.tar"
        # busybox is the shell, as the package of another one would need its installation scripts.
        names = "sh sleep cat chmod mkdir rm ls id"
        links = f'for name in {names}; do ln -s busybox "$1/bin/$name"; done'
        debian.bootstrap(
            layer,
            "--variant=extract",
            "--include=python3,python3-minimal",
            *LEAN,
            f"--extract-hook=mkdir -p $1/bin && cp {busybox()[0]} $1/bin/busybox && {links}",
        )
        archive("base", layer, ["/bin/sh"], base)
        debian.bootstrap(
            layer,
            "--variant=minbase",
            "--include=buildah,docker-registry,git,python3,ca-certificates",
            "--skip=output/dev",
            *LEAN,
            f"--customize-hook=mkdir -p $1/opt/images $1/etc/containers && cp {base} $1/opt/images/base.tar",
            f"--customize-hook=echo '{POLICY}' >$1/etc/containers/policy.json",
        )
        archive("builder", layer, ["/bin/sh"], image)
        os.replace(image, out)


if __name__ == "__main__":
    main(sys.argv[1])
