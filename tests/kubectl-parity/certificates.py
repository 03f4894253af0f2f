"""X.509 certificates of every odd form, built byte by byte.

The openssl program only makes keys and signatures, so that it can refuse no field."""

import base64
import datetime
import os
import subprocess

SHA256_WITH_ECDSA = "1.2.840.10045.4.3.2"
SHA256_WITH_RSA = "1.2.840.113549.1.1.11"
ED25519 = "1.3.101.112"
SERVER_AUTH, CLIENT_AUTH = "1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2"


def der(tag, *parts):
    content = b"".join(parts)
    if len(content) < 128:
        return bytes([tag, len(content)]) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def sequence(*parts):
    return der(0x30, *parts)


def oid(dotted):
    first, second, *rest = map(int, dotted.split("."))
    content = [first * 40 + second]
    for number in rest:
        digits = [number & 0x7F]
        while number := number >> 7:
            digits.append(number & 0x7F | 0x80)
        content += reversed(digits)
    return der(0x06, bytes(content))


def name(common_name):
    return sequence(der(0x31, sequence(oid("2.5.4.3"), der(0x0C, common_name.encode()))))


def time(days):
    when = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days)
    return der(0x18, when.strftime("%Y%m%d%H%M%SZ").encode())


def extension(dotted, content, critical=False):
    return sequence(oid(dotted), *([der(0x01, b"\xff")] if critical else []), der(0x04, content))


def pem(label, content):
    text = base64.encodebytes(content).decode().replace("\n", "")
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""])


class Key:
    def __init__(self, directory, file, algorithm="P-256"):
        self.path = os.path.join(directory, file)
        self.algorithm = algorithm
        options = {
            "P-256": ["EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
            "P-384": ["EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
            "RSA": ["RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
            "Ed25519": ["ED25519"],
        }[algorithm]
        run("genpkey", "-algorithm", *options, "-out", self.path)
        self.public = run("pkey", "-in", self.path, "-pubout", "-outform", "DER")
        with open(self.path) as file:
            self.pem = file.read()
        dotted = {"RSA": SHA256_WITH_RSA, "Ed25519": ED25519}.get(algorithm, SHA256_WITH_ECDSA)
        parameters = [der(0x05)] if algorithm == "RSA" else []
        self.signature_algorithm = sequence(oid(dotted), *parameters)

    def sign(self, content):
        if self.algorithm == "Ed25519":
            path = self.path + ".in"
            with open(path, "wb") as file:
                file.write(content)
            return run("pkeyutl", "-sign", "-inkey", self.path, "-rawin", "-in", path)
        return run("dgst", "-sha256", "-sign", self.path, stdin=content)


def run(*arguments, stdin=None):
    command = ["openssl", *arguments]
    return subprocess.run(command, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True).stdout


def certificate(
    subject,
    key,
    issuer=None,
    issuer_key=None,
    names=(),
    addresses=(),
    ca=None,
    usage=(),
    version=3,
    start=-1,
    end=3650,
):
    """The PEM of a certificate; without an issuer it is self-signed. Times are in days from now."""
    signer = issuer_key or key
    extensions = []
    if ca is not None:
        content = sequence(*([der(0x01, b"\xff")] if ca else []))
        extensions.append(extension("2.5.29.19", content, critical=True))
    if names or addresses:
        content = [der(0x82, entry.encode()) for entry in names] + [der(0x87, entry) for entry in addresses]
        extensions.append(extension("2.5.29.17", sequence(*content)))
    if usage:
        extensions.append(extension("2.5.29.37", sequence(*map(oid, usage))))
    body = sequence(
        *([der(0xA0, der(0x02, b"\x02"))] if version == 3 else []),
        der(0x02, b"\x01" + os.urandom(8)),
        signer.signature_algorithm,
        name(issuer or subject),
        sequence(time(start), time(end)),
        name(subject),
        key.public,
        *([der(0xA3, sequence(*extensions))] if version == 3 and extensions else []),
    )
    signature = der(0x03, b"\x00" + signer.sign(body))
    return pem("CERTIFICATE", sequence(body, signer.signature_algorithm, signature))
