"""Runs each row of rows.py through stock kubectl and podbridge, and fails where they differ.

run [WORD...]: only the rows whose name has one of the words. STOCK_KUBECTL and PODBRIDGE are the programs (README.md).
"""

import base64
import concurrent.futures
import ipaddress
import json
import os
import re
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import time

from certificates import CLIENT_AUTH, SERVER_AUTH, Key, certificate, run
from rows import ROWS
from servers import ApiServer, Proxy

JOBS = int(os.environ.get("PODBRIDGE_TEST_JOBS") or 2 * (os.cpu_count() or 1))
TIMEOUT = 30
SERVICE_ACCOUNT = "/run/secrets/kubernetes.io/serviceaccount"
# Options that podbridge's command line has; others reach it as `extra_args`, as from Ansible.
CLI_OPTIONS = (
    "--context",
    "--namespace",
    "--server",
    "--certificate-authority",
    "--client-certificate",
    "--client-key",
    "--insecure-skip-tls-verify",
    "--as=",
    "--as-group",
)
POD_NOT_FOUND = 228
# What both programs say when the API server has no such pod.
NO_POD = re.compile(r'pods "web(-0)?" not found')
PLUGIN = """#!/bin/sh
printf '%s\\n' "$KUBERNETES_EXEC_INFO" >>"$0.log"
v=${KUBERNETES_EXEC_INFO#*apiVersion\\":\\"}; v=${v%%\\"*}
credential() { printf '{"kind":"ExecCredential","apiVersion":"%s","status":{%s}}\\n' "$v" "$1"; }
case $1 in
"print token") credential '"token":"from-plugin","expirationTimestamp":"2999-01-01T00:00:00Z"' ;;
"print variable") credential '"token":"'"$WHO"'"' ;;
"print expired") credential '"token":"from-plugin","expirationTimestamp":"2001-01-01T00:00:00Z"' ;;
"print certificate") credential "$(cat "$0.pair")" ;;
"print both") credential "$(cat "$0.pair"),\\"token\\":\\"from-plugin\\"" ;;
"print half") credential '"clientKeyData":"x"' ;;
"print rubbish") echo rubbish ;;
"print version") v=client.authentication.k8s.io/v2; credential '"token":"x"' ;;
"print yaml") printf 'kind: ExecCredential\\napiVersion: %s\\nstatus:\\n  token: from-yaml\\n' "$v" ;;
"fail") echo 'run: sso login' >&2; exit 3 ;;
esac
"""


class Authority:
    """All keys and certificates of the rows, and the TLS settings of each kind of server."""

    def __init__(self, directory):
        self.directory = directory
        self.files = {}
        self.key = Key(directory, "server.key")
        ca, other, client = (Key(directory, f"{name}.key") for name in ("ca", "other", "client"))
        rsa, p384, ed25519 = (Key(directory, f"{name}.key", name) for name in ("RSA", "P-384", "Ed25519"))
        addresses = [ipaddress.ip_address(text).packed for text in ("127.0.0.1", "0.0.0.0", "::1")]
        good = {"names": ["localhost", "api.parity.test"], "addresses": addresses}
        other_name = {"names": ["api.other.test"]}
        by_ca = {"issuer": "parity-ca", "issuer_key": ca}

        self.add("ca", certificate("parity-ca", ca, ca=True))
        self.add("other", certificate("other-ca", other, ca=True))
        self.add("expired-ca", certificate("parity-ca", ca, ca=True, start=-20, end=-1))
        self.add("v1-ca", certificate("parity-ca", ca, version=1))
        self.add("intermediate", certificate("middle", other, ca=True, **by_ca))
        self.add("signer", certificate("signer", other, ca=False))
        server = self.server
        server("server", **good, **by_ca, usage=[SERVER_AUTH])
        server("self-ca", **good, ca=True)
        server("self", **good, ca=False)
        server("self-name", **other_name, ca=True)
        server("self-expired", **good, ca=True, start=-20, end=-1)
        server("self-usage", **good, usage=[CLIENT_AUTH])
        server("leaf-ca", **good, **by_ca, ca=True)
        server("by-leaf", **good, issuer="signer", issuer_key=other)
        server("by-intermediate", **good, issuer="middle", issuer_key=other, chain="intermediate")
        server("no-intermediate", **good, issuer="middle", issuer_key=other)
        server("leaf-ca-deep", **good, issuer="middle", issuer_key=other, ca=True, chain="intermediate")
        server("expired", **good, **by_ca, start=-20, end=-1)
        server("future", **good, **by_ca, start=1)
        server("name", **other_name, **by_ca)
        server("common-name", subject="127.0.0.1", **by_ca)
        server("usage", **good, **by_ca, usage=[CLIENT_AUTH])
        server("v1", **by_ca, version=1)
        server("rsa", key=rsa, **good, **by_ca)
        server("p384", key=p384, **good, **by_ca)
        server("ed25519", key=ed25519, **good, **by_ca)
        self.add("client", certificate("client", client, **by_ca, usage=[CLIENT_AUTH]))
        self.add("client-v1", certificate("client-v1", client, **by_ca, version=1))
        self.add("client-rsa", certificate("client-rsa", rsa, **by_ca))
        self.add("client-key", client.pem)
        self.add("other-key", other.pem)
        self.add("client-both", client.pem + self.pem("client"))

        def openssl(*words):
            return run(*words).decode()

        self.add("client-rsa-pkcs1", openssl("rsa", "-in", rsa.path, "-traditional"))
        parameters = openssl("ecparam", "-name", "prime256v1")
        self.add("client-key-sec1", parameters + openssl("ec", "-in", client.path))
        self.add("client-key-encrypted", openssl("pkcs8", "-topk8", "-in", client.path, "-passout", "pass:x"))

    def add(self, name, text):
        path = os.path.join(self.directory, name + ".pem")
        with open(path, "w") as file:
            file.write(text)
        self.files[name] = path

    def pem(self, name):
        with open(self.files[name]) as file:
            return file.read()

    def server(self, name, key=None, subject=None, chain=None, **fields):
        key = key or self.key
        text = certificate(subject or "server-" + name, key, **fields)
        self.add(name, text)
        self.add(name + "+", text + (self.pem(chain) if chain else "") + key.pem)

    def context(self, kind):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if kind.startswith("tls12"):
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            kind = "rsa" if kind.endswith("rsa") else "server"
        by = {"by-expired": "server", "by-v1": "server", "token": "server"}.get(kind, kind)
        context.load_cert_chain(self.files[by + "+"])
        context.load_verify_locations(self.files["ca"])
        context.verify_mode = ssl.CERT_OPTIONAL
        return context


class Row:
    def __init__(self, fields, directory, authority):
        self.fields, self.directory, self.authority = fields, directory, authority
        get = fields.get
        kind, self.host = get("server", "server"), get("host", "127.0.0.1")
        context = None if kind == "http" else authority.context(kind)
        bound = {"localhost": "127.0.0.1"}.get(self.host, self.host)
        token = "t0ken" if kind == "token" else None
        self.api = ApiServer(context, token, get("prefix", ""), bound, get("pods_after", 0), get("selector"))
        self.name = get("pod", "web")
        self.proxy = None
        if get("proxy"):
            login = "u:p@ss" if "login" in get("proxy") else None
            status = int(get("proxy")) if get("proxy").isdigit() else None
            tls = authority.context("server") if get("proxy") == "https" else None
            self.proxy = Proxy("socks5" if get("proxy").startswith("socks5") else "http", login, status, tls)
        self.texts = {
            "url": f"https://{self.host}:{self.api.port}",
            "host": f"[{self.host}]" if ":" in self.host and get("in_cluster") is None else self.host,
            "port": str(self.api.port),
            "dir": directory,
            "proxy": f"127.0.0.1:{self.proxy.port}" if self.proxy else "",
            "path": os.environ["PATH"],
        }

    def fill(self, value):
        """Fills in the braces of a text, or of all texts in a list or dict. In a text {{ and }} are braces."""
        if isinstance(value, dict):
            return {key: self.fill(entry) for key, entry in value.items() if entry is not None}
        if isinstance(value, list):
            return [self.fill(entry) for entry in value]
        if not isinstance(value, str):
            return value
        for _ in range(2):
            if "{usual}" in value or "{json}" in value:
                usual = self.usual()
                value = value.replace("{json}", json.dumps(usual, indent="\t").replace("{", "{{").replace("}", "}}"))
                value = value.replace("{usual}", as_yaml(usual).replace("{", "{{").replace("}", "}}"))
        for name, text in self.texts.items():
            value = value.replace(f"{{{name}}}", text)
        for name, path in self.authority.files.items():
            if "{" + name not in value:
                continue
            pem = self.authority.pem(name)
            data = base64.b64encode(pem.encode()).decode()
            lines = "\n".join(data[at : at + 76] for at in range(0, len(data), 76))
            forms = {"": path, ":data": data, ":lines": lines, ":pem": pem, ":crlf": pem.replace("\n", "\r\n")}
            for form, text in forms.items():
                value = value.replace(f"{{{name}{form}}}", text)
        return value.replace("{{", "{").replace("}}", "}")

    def usual(self):
        cluster = {"server": "{url}", "certificate-authority": "{ca}", **self.fields.get("cluster", {})}
        user = {"token": "t0ken", **self.fields.get("user", {})}
        context = {"cluster": "c", "user": "u", "namespace": "default", **self.fields.get("context", {})}
        second = {"cluster": "c", "user": "second", "namespace": "second"}
        return self.fill(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": cluster}],
                "users": [{"name": "u", "user": user}, {"name": "second", "user": {"token": "second"}}],
                "contexts": [{"name": "x", "context": context}, {"name": "second", "context": second}],
                "current-context": "x",
            }
        )

    def write_files(self):
        kubeconfig = self.fields.get("kubeconfig")
        if kubeconfig is None:
            kubeconfig = {"config": json.dumps(self.usual()).replace("{", "{{").replace("}", "}}")}
        elif isinstance(kubeconfig, str):
            kubeconfig = {"config": kubeconfig}
        files = {**kubeconfig, **self.fields.get("files", {}), "plugin": None, "plugin.pair": None}
        for name, text in files.items():
            path = os.path.join(self.directory, name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if name == "plugin":
                text = PLUGIN
            elif name == "plugin.pair":
                pair = {"clientCertificateData": "client", "clientKeyData": "client-key"}
                text = json.dumps({key: self.authority.pem(file) for key, file in pair.items()})[1:-1]
            else:
                text = self.fill(text)
                if "edit" in self.fields and name == "config":
                    old, new = map(self.fill, self.fields["edit"])
                    assert old in text, f"{old!r} is not in the kubeconfig"
                    text = text.replace(old, new)
            with open(path, "w", newline="") as file:
                file.write(text)
        os.chmod(os.path.join(self.directory, "plugin"), 0o755)

    def environment(self):
        home = os.path.join(self.directory, "nobody")
        environment = {"PATH": os.environ["PATH"], "HOME": home, "PODBRIDGE_DIR": os.path.join(self.directory, ".pb")}
        environment.update(self.fill(self.fields.get("env", {})))
        return {name: value for name, value in environment.items() if value}

    def wrap(self, command):
        """Runs a command where a service account is mounted; only this command sees the mount."""
        if not self.fields.get("in_cluster"):
            return command
        script = f"""mount -t tmpfs none /run && mkdir -p {SERVICE_ACCOUNT} && cp "$0" {SERVICE_ACCOUNT}/ca.crt &&
            printf account >{SERVICE_ACCOUNT}/token && printf from-account >{SERVICE_ACCOUNT}/namespace && exec "$@" """
        return [*namespace(), "sh", "-c", script, self.authority.files["ca"], *command]

    def observe(self, run):
        """Runs a program; returns whether it was answered, what it said, and what servers, proxies and plugins saw."""
        self.api.log.clear()
        self.api.first_list = None
        if self.proxy:
            self.proxy.log.clear()
        plugin_log = os.path.join(self.directory, "plugin.log")
        if os.path.exists(plugin_log):
            os.remove(plugin_log)
        answered, said = run()
        plugin = []
        if os.path.exists(plugin_log):
            with open(plugin_log) as file:
                plugin = [json.dumps(json.loads(line), sort_keys=True) for line in file if line.strip()]
        seen = {
            "server": sorted({json.dumps(entry, sort_keys=True) for entry in self.api.log}),
            "proxy": sorted({json.dumps(entry, sort_keys=True) for entry in (self.proxy.log if self.proxy else [])}),
            "plugin": sorted(set(plugin)),
        }
        return {"answered": answered, "said": said, "seen": seen, "runs": len(plugin)}

    def kubeconfig_option(self):
        if "kubeconfig_file" in self.fields:
            return [f"--kubeconfig={self.directory}/{self.fields['kubeconfig_file']}"]
        if "KUBECONFIG" in self.fields.get("env", {}) or self.fields.get("kubeconfig") == {}:
            return []
        return [f"--kubeconfig={self.directory}/config"]

    def kubectl(self):
        flags = self.fill(self.fields.get("flags", []))
        command = [STOCK_KUBECTL, *self.kubeconfig_option(), "exec", *flags, self.name, "--", "true"]
        process = execute(self.wrap(command), self.environment())
        return bool(NO_POD.search(process.stderr)), process.stderr

    def podbridge(self):
        flags = self.fill(self.fields.get("flags", []))
        options = [*self.bridge_options(), *self.kubeconfig_option()]
        is_known = all(flag.startswith(CLI_OPTIONS) for flag in flags)
        if not is_known:
            # The last option wins, and this is the way in which Ansible passes options on.
            target = {"pod": self.name, "extra_args": flags}
            environment = self.environment()
            for option in self.kubeconfig_option():
                target["kubeconfig_file"] = option.split("=", 1)[1]
            if "KUBECONFIG" in environment:
                target["kubeconfig"] = environment["KUBECONFIG"]
            target["env"] = {key: value for key, value in environment.items() if key not in ("HOME", "PODBRIDGE_DIR")}
            return self.through_protocol(target, environment)
        command = [PODBRIDGE, *options, *flags, "exec", self.name, "--", "true"]
        process = execute(self.wrap(command), self.environment())
        return process.returncode == POD_NOT_FOUND and bool(NO_POD.search(process.stderr)), process.stderr

    def bridge_options(self):
        return ["--idle=1", f"--connect-timeout={self.fields.get('connect_timeout', 20)}"]

    def through_protocol(self, target, environment):
        command = self.wrap([PODBRIDGE, "bridge", *self.bridge_options()])
        process = execute(command, environment, json.dumps(target))
        answer = json.loads(process.stdout)
        if "error" in answer:
            return False, answer["error"]["message"]
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(TIMEOUT)
            connection.connect(answer["socket"])
            request = json.dumps({"v": 1, "op": "exec", "argv": ["true"]}).encode()
            connection.sendall(struct.pack(">IB", len(request) + 1, 0x01) + request)
            stream = connection.makefile("rb")
            while True:
                length, kind = struct.unpack(">IB", stream.read(5))
                payload = stream.read(length - 1)
                if kind == 0x1F:
                    result = json.loads(payload)
                    message = result.get("message", "")
                    return result.get("kind") == "pod_not_found" and bool(NO_POD.search(message)), message

    def close(self):
        self.api.close()
        if self.proxy:
            self.proxy.close()


def namespace():
    return ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--map-root-user", "--mount"]


def as_yaml(kubeconfig):
    """Block YAML of a kubeconfig without odd strings."""
    lines = []

    def write(value, indent, prefix=""):
        if isinstance(value, dict) and value:
            for at, (key, entry) in enumerate(value.items()):
                start = (prefix if at == 0 else " " * len(prefix)) + key + ":"
                if isinstance(entry, (dict, list)) and entry:
                    lines.append(" " * indent + start)
                    write(entry, indent + len(prefix) + (2 if isinstance(entry, dict) else 0))
                else:
                    lines.append(" " * indent + start + " " + (entry if isinstance(entry, str) else json.dumps(entry)))
        else:
            for entry in value:
                write(entry, indent, "- ")

    write(kubeconfig, 0)
    return "\n".join(lines) + "\n"


def execute(command, environment, stdin=None):
    return subprocess.run(
        command,
        env=environment,
        input=stdin if stdin is not None else "",
        capture_output=True,
        timeout=TIMEOUT,
        encoding="utf-8",
        errors="replace",
    )


def check(fields, directory, authority):
    """Returns what is wrong with a row, as lines."""
    os.makedirs(os.path.join(directory, ".pb"), mode=0o700)
    row = Row(fields, directory, authority)
    try:
        row.write_files()
        kubectl = row.observe(row.kubectl)
        podbridge = row.observe(row.podbridge)
    except (subprocess.TimeoutExpired, AssertionError, OSError, ValueError, struct.error) as error:
        return [f"{type(error).__name__}: {error}"]
    finally:
        row.close()
    wrong = []
    expected = fields["expected"] == "answered"
    if kubectl["answered"] != expected:
        wrong.append(f"the row expects {fields['expected']!r}, and kubectl does otherwise")
    if podbridge["answered"] != kubectl["answered"]:
        wrong.append(f"kubectl {outcome(kubectl)}, podbridge {outcome(podbridge)}")
    for where in ("server", "proxy", "plugin"):
        if kubectl["seen"][where] != podbridge["seen"][where]:
            wrong.append(f"{where}: kubectl {kubectl['seen'][where]}, podbridge {podbridge['seen'][where]}")
    said = podbridge["said"]
    words = fields.get("says", [])
    missing = [word for word in words if row.fill(word) not in said]
    if missing and (not fields.get("any_says") or len(missing) == len(words)):
        wrong.append(f"podbridge does not say {missing}")
    if podbridge["runs"] > fields.get("runs", 1000):
        wrong.append(f"podbridge runs the plugin {podbridge['runs']} times")
    if "panicked" in said:
        wrong.append("podbridge panicked")
    log = os.path.join(directory, ".pb")
    for name in os.listdir(log):
        if name.endswith(".log") and "panicked" in open(os.path.join(log, name), errors="replace").read():
            wrong.append("the bridge panicked: " + open(os.path.join(log, name), errors="replace").read()[-500:])
    if wrong or VERBOSE:
        wrong.append(f"kubectl says: {kubectl['said'].strip()[-600:]}")
        wrong.append(f"podbridge says: {said.strip()[-600:]}")
    return wrong


def outcome(observed):
    return "is answered" if observed["answered"] else "fails"


def program(variable, default=None):
    path = os.environ.get(variable) or default
    if not path or not os.access(path, os.X_OK):
        sys.exit(f"{variable} names no program: {path}; see tests/kubectl-parity/README.md")
    return os.path.abspath(path)


def is_served(row, version):
    """Tells whether a kubectl of this version does what the row says."""
    return tuple(map(int, row.get("since", "1.0").split("."))) <= version


def kubectl_version():
    """Returns the version of the stock kubectl, as text and as a pair of numbers."""
    asked = execute([STOCK_KUBECTL, "version", "--client", "-o", "json"], {"HOME": "/nonexistent"}).stdout
    text = json.loads(asked)["clientVersion"]["gitVersion"]
    major, minor = re.match(r"v(\d+)\.(\d+)", text).groups()
    return text, (int(major), int(minor))


def main():
    words = [word for word in sys.argv[1:] if word != "-v"]
    rows = [row for row in ROWS if not words or any(word in row["name"] for word in words)]
    version, number = kubectl_version()
    newer = [f"{row['name']} (since {row['since']})" for row in rows if not is_served(row, number)]
    rows = [row for row in rows if is_served(row, number)]
    can_mount = (
        subprocess.run([*namespace(), "mount", "-t", "tmpfs", "none", "/run"], capture_output=True).returncode == 0
    )
    skipped = [row["name"] for row in rows if row.get("in_cluster") and not can_mount]
    rows = [row for row in rows if row["name"] not in skipped]
    started = time.monotonic()
    base = tempfile.mkdtemp(prefix="kp-")
    failed = 0
    try:
        authority = Authority(base)
        with concurrent.futures.ThreadPoolExecutor(JOBS) as pool:
            directories = [os.path.join(base, str(number)) for number in range(len(rows))]
            results = pool.map(lambda pair: check(*pair, authority), zip(rows, directories, strict=True))
            for row, wrong in zip(rows, results, strict=True):
                if wrong:
                    failed += not VERBOSE or len(wrong) > 2
                    print(f"\n{row['name']}:", *wrong, sep="\n    ")
        # Idle bridges end after a second; their directories are theirs until then.
        time.sleep(1.5)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    if newer:
        print(f"left out, because this kubectl differs from podbridge and from newer ones: {'; '.join(newer)}")
    if skipped:
        print(f"skipped, as this user may not mount: {', '.join(skipped)}")
    print(f"{len(rows)} rows, {failed} failed, kubectl {version}, {time.monotonic() - started:.0f} s")
    sys.exit(failed > 0)


VERBOSE = "-v" in sys.argv
STOCK_KUBECTL = program("STOCK_KUBECTL")
PODBRIDGE = program("PODBRIDGE", os.path.join(os.path.dirname(__file__), "../../dist/bin/podbridge"))
