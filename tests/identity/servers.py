"""API servers that know no pod, and note who asked them: the token's user and the namespace."""

import base64
import json
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def make_token(user, serial):
    """Returns a token of the form of a JSON Web Token; each serial number gives another one of the same user."""
    claims = json.dumps({"iss": "test", "sub": user, "jti": serial}).encode()
    return f"e30.{base64.urlsafe_b64encode(claims).decode().rstrip('=')}.sig"


def user_of(token):
    """Returns the user of a token: the subject of a JSON Web Token, else the first word of `USER-anything`."""
    parts = token.split(".")
    if len(parts) == 3:
        payload = parts[1] + "=" * (-len(parts[1]) % 4)
        return json.loads(base64.urlsafe_b64decode(payload))["sub"]
    return token.split("-")[0]


# What kubectl asks before it asks for a pod.
DISCOVERY = {
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
    "/api/v1": {
        "kind": "APIResourceList",
        "groupVersion": "v1",
        "resources": [{"name": "pods", "singularName": "pod", "namespaced": True, "kind": "Pod", "verbs": ["get"]}],
    },
}


def make_certificates(directory):
    """Makes an authority and a certificate for 127.0.0.1; returns the paths of authority, certificate and key."""
    names = ["ca.crt", "ca.key", "server.crt", "server.key", "server.csr", "server.ext"]
    ca, ca_key, certificate, key, request, extensions = (str(directory / name) for name in names)
    with open(extensions, "w") as file:
        file.write("subjectAltName=IP:127.0.0.1\n")
    new = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-batch"]
    sign = ["openssl", "x509", "-req", "-in", request, "-CA", ca, "-CAkey", ca_key, "-CAcreateserial", "-days", "2"]
    for command in (
        [*new, "-x509", "-days", "2", "-subj", "/CN=authority", "-keyout", ca_key, "-out", ca],
        [*new, "-subj", "/CN=server", "-keyout", key, "-out", request],
        [*sign, "-extfile", extensions, "-out", certificate],
    ):
        subprocess.run(command, check=True, capture_output=True)
    return ca, certificate, key


class ApiServers:
    """Several HTTPS servers on loopback with ephemeral ports. kubectl sends credentials over TLS only."""

    def __init__(self, count, directory):
        self._notes, self._lock = set(), threading.Lock()
        self.authority, certificate, key = make_certificates(directory)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), self._handler(number)) for number in range(count)]
        for server in self._servers:
            server.handle_error = lambda *_: None
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        self.urls = [f"https://127.0.0.1:{server.server_port}" for server in self._servers]

    def __enter__(self):
        for server in self._servers:
            threading.Thread(target=server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def take(self):
        """Returns who asked for which pod since the last call, as sorted (server, user, path)."""
        with self._lock:
            notes, self._notes = self._notes, set()
        return sorted(notes)

    def _handler(self, number):
        notes, lock = self, self._lock

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def _user(self):
                kind, _, token = self.headers.get("Authorization", "").partition(" ")
                return user_of(token) if kind == "Bearer" else "anonymous"

            def _answer(self, code, document):
                body = json.dumps(document).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self):
                path = self.path.partition("?")[0].rstrip("/")
                if path in DISCOVERY:
                    self._answer(200, DISCOVERY[path])
                    return
                if "/pods/" in self.path:
                    with lock:
                        notes._notes.add((number, self._user(), self.path.partition("?")[0]))
                name = self.path.rpartition("/")[2]
                details = {"name": name, "kind": "pods"}
                status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
                self._answer(404, status | {"message": f'pods "{name}" not found', "details": details})

            def do_POST(self):
                review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                review["status"] = {"userInfo": {"username": self._user(), "groups": ["system:authenticated"]}}
                self._answer(201, review)

        return Handler
