"""Layers and archives of container images. No byte of them depends on when or where they are made.

A layer is a tar file whose entries are in the order of their names, belong to root and carry no time. It is not
compressed: the bytes of a compressed one depend on the version of the compressor, and tools compress on the way to a
registry. `build` calls this file; tests/cluster/images.py takes its layers.
"""

import hashlib
import io
import json
import tarfile

# Names of architectures: as the kernel says them, and as images say them.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
EPOCH = "1970-01-01T00:00:00Z"


class Layer:
    """The files of an image."""

    def __init__(self):
        self.entries = {}

    def _add(self, name, kind, mode, data=b"", target=""):
        parent, _, _ = name.rpartition("/")
        if parent and parent not in self.entries:
            self.directory(parent)
        self.entries[name] = (kind, mode, data, target)

    def directory(self, name, mode=0o755):
        self._add(name, tarfile.DIRTYPE, mode)

    def file(self, name, data, mode=0o644):
        self._add(name, tarfile.REGTYPE, mode, data)

    def symlink(self, name, target):
        self._add(name, tarfile.SYMTYPE, 0o777, target=target)

    def tar(self):
        """Returns the layer as bytes. Of equal files one is stored, and the others are hard links to it."""
        stored, entries = {}, []
        for name, (kind, mode, data, target) in sorted(self.entries.items()):
            first = stored.setdefault((mode, data), name) if data else name
            if first != name:
                kind, data, target = tarfile.LNKTYPE, b"", first
            entries.append((name, kind, mode, data, target))
        return tar_of(entries)


def tar_of(entries):
    """Returns a tar file of (name, kind, mode, data, link target)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, mode, data, target in entries:
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.size, info.linkname = kind, mode, len(data), target
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


class Archive:
    """An image for one or several architectures, as an archive of an OCI image layout."""

    def __init__(self, name, version):
        self.name, self.version = name, version
        self.blobs, self.manifests = {}, []

    def _blob(self, media_type, data):
        """Keeps a blob and returns its descriptor."""
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[f"blobs/sha256/{digest}"] = data
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    def _json(self, media_type, value):
        return self._blob(media_type, encoded(value))

    def add(self, architecture, layer, config):
        """Adds the image of an architecture, as the kernel names it; `config` describes its process."""
        blob = self._blob(LAYER, layer.tar())
        platform = {"architecture": ARCHITECTURES[architecture], "os": "linux"}
        labels = {"org.opencontainers.image.title": self.name, "org.opencontainers.image.version": self.version}
        image = {
            **platform,
            "created": EPOCH,
            "config": {**config, "Labels": labels},
            "rootfs": {"type": "layers", "diff_ids": [blob["digest"]]},
            # One entry for each layer, or buildah refuses to build on the image.
            "history": [{"created": EPOCH, "created_by": "packaging/images/build"}],
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self._json(CONFIG, image),
            "layers": [blob],
        }
        self.manifests.append({**self._json(MANIFEST, manifest), "platform": platform})

    def digest(self):
        """Returns the digest under which a registry knows the image of all architectures."""
        return self._image()["digest"]

    def _image(self):
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": self.manifests}
        return self._json(INDEX, index)

    def tar(self):
        """Returns the archive as bytes."""
        # containerd and Docker take the whole name from the first annotation, other tools the tag from the second one.
        names = {
            "io.containerd.image.name": f"localhost/{self.name}:{self.version}",
            "org.opencontainers.image.ref.name": self.version,
        }
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [{**self._image(), "annotations": names}]}
        files = {**self.blobs, "index.json": encoded(index), "oci-layout": encoded({"imageLayoutVersion": "1.0.0"})}
        directories = ("blobs", "blobs/sha256")
        return tar_of(
            [(name, tarfile.DIRTYPE, 0o755, b"", "") for name in directories]
            + [(name, tarfile.REGTYPE, 0o644, data, "") for name, data in sorted(files.items())]
        )


def encoded(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
