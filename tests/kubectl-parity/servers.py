"""API servers and proxies on loopback. Each notes who asked, and with which credentials."""

import base64
import http.server
import json
import select
import socket
import ssl
import struct
import threading
import time

POD_PATH = "/pods/"
# Resources by API group and version: plural, singular, kind and short names. Objects named `web` exist, no others do.
RESOURCES = {
    "v1": [
        ("pods", "pod", "Pod", ["po"]),
        ("services", "service", "Service", ["svc"]),
        ("replicationcontrollers", "replicationcontroller", "ReplicationController", ["rc"]),
        ("configmaps", "configmap", "ConfigMap", ["cm"]),
        ("endpoints", "endpoints", "Endpoints", ["ep"]),
    ],
    "apps/v1": [
        ("deployments", "deployment", "Deployment", ["deploy"]),
        ("replicasets", "replicaset", "ReplicaSet", ["rs"]),
        ("statefulsets", "statefulset", "StatefulSet", ["sts"]),
        ("daemonsets", "daemonset", "DaemonSet", ["ds"]),
    ],
    "batch/v1": [("jobs", "job", "Job", []), ("cronjobs", "cronjob", "CronJob", ["cj"])],
}
# Kinds whose selector is a plain map of labels.
PLAIN_SELECTORS = ("Service", "ReplicationController")
# The pod of the objects named `web`.
POD = {
    "kind": "Pod",
    "apiVersion": "v1",
    "metadata": {"name": "web-0", "namespace": "default", "labels": {"app": "web"}},
    "spec": {"nodeName": "node", "containers": [{"name": "main", "image": "none"}]},
    "status": {"phase": "Running"},
}


class ApiServer:
    """Answers 404 for every pod, and as little discovery as kubectl needs.

    `log` has an entry for each request for a pod. Objects named `web` select the pod `web-0`, which lists show
    `pods_after` seconds after the first of them; `selector`: another one than the usual."""

    def __init__(self, context=None, token=None, prefix="", host="127.0.0.1", pods_after=0, selector=None):
        self.log = []
        self.pods_after, self.selector, self.first_list = pods_after, selector, None
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                server.handle(self)

            do_POST = do_GET

            def log_message(self, *_):
                pass

            def setup(self):
                if context:
                    # As Go's server, which answers a request without TLS.
                    if self.request.recv(1, socket.MSG_PEEK) not in (b"\x16", b""):
                        self.request.sendall(
                            b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
                        )
                        raise OSError("no TLS")
                    self.request = context.wrap_socket(self.request, server_side=True)
                super().setup()

            def finish(self):
                super().finish()
                self.request.close()

        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        kind = type("Server", (http.server.ThreadingHTTPServer,), {"address_family": family, "daemon_threads": True})
        self.http = kind((host, 0), Handler, bind_and_activate=True)
        self.http.handle_error = lambda *_: None
        self.token, self.prefix = token, prefix
        self.port = self.http.server_address[1]
        if context:
            context.sni_callback = lambda connection, name, _: setattr(connection, "server_name_asked", name)
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def handle(self, request):
        path = request.path.split("?")[0]
        if "://" in path:
            path = "/" + path.split("/", 3)[3]
        headers = request.headers
        status, answer = 404, failure(404, "NotFound", "the server could not find the requested resource")
        if not path.startswith(self.prefix):
            pass
        elif POD_PATH in path and self.token and headers.get("Authorization") != "Bearer " + self.token:
            status, answer = 401, failure(401, "Unauthorized", "Unauthorized")
        else:
            if "watch=true" in request.path:
                self.watch(request)
                return
            found = self.find(path.removeprefix(self.prefix), request.path)
            if found:
                status, answer = 200, found
            elif path.count("/") == 7 and path.startswith("/apis/"):
                group, resource, name = path.split("/")[2], *path.split("/")[6:]
                answer = failure(404, "NotFound", f'{resource}.{group} "{name}" not found', f"{resource}.{group}", name)
        if POD_PATH in path:
            name = path.split(POD_PATH)[1].split("/")[0]
            if status == 404:
                answer = failure(404, "NotFound", f'pods "{name}" not found', "pods", name)
            # kubectl gets the pod that is named, and none that an object has: it asks for the exec at once.
            self.log.append(self.entry(request, path.split(POD_PATH)[0] + POD_PATH + name, status))
        body = json.dumps(answer).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def find(self, path, with_query):
        """Returns discovery, an object or a list of pods; None for what does not exist."""
        parts = path.strip("/").split("/")
        version = "/".join(parts[1:3]) if parts[0] == "apis" else "v1"
        below = parts[3:] if parts[0] == "apis" else parts[2:]
        if len(below) == 3 and below[2] == "pods":
            return self.pods(with_query)
        if len(below) == 4 and below[3] == "web":
            for plural, _, kind, _ in RESOURCES.get(version, []):
                if plural == below[2] and plural != "pods":
                    labels = {"app": "web"} if self.selector is None else self.selector
                    selector = labels if kind in PLAIN_SELECTORS else {"matchLabels": labels}
                    metadata = {"name": "web", "namespace": below[1]}
                    return {"kind": kind, "apiVersion": version, "metadata": metadata, "spec": {"selector": selector}}
        return discovery(path)

    def pods(self, query):
        """Returns the pods that a selector has at this moment."""
        self.first_list = self.first_list or time.monotonic()
        items = [POD] if self.remaining() <= 0 and "labelSelector=app%3Dweb" in query else []
        return {"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}

    def remaining(self):
        """Returns the seconds until objects have their pod."""
        return self.first_list + self.pods_after - time.monotonic()

    def watch(self, request):
        """Answers a watch: at once with its head, and with the pod when the object has it."""
        request.close_connection = True
        request.send_response(200)
        request.send_header("Content-Type", "application/json")
        request.end_headers()
        request.wfile.flush()
        if "labelSelector=app%3Dweb" in request.path:
            time.sleep(max(0, self.remaining()))
            request.wfile.write(json.dumps({"type": "ADDED", "object": POD}).encode() + b"\n")

    def entry(self, request, path, status):
        headers, connection = request.headers, request.connection
        entry = {"path": path, "status": status}
        for header in ("Authorization", "Impersonate-User", "Impersonate-Uid"):
            if header in headers:
                entry[header] = headers[header]
        if "Impersonate-Group" in headers:
            entry["groups"] = sorted(headers.get_all("Impersonate-Group"))
        extra = {key.lower(): value for key, value in headers.items() if key.lower().startswith("impersonate-extra-")}
        if extra:
            entry["extra"] = extra
        if isinstance(connection, ssl.SSLSocket):
            entry["server name"] = getattr(connection, "server_name_asked", None)
            certificate = connection.getpeercert()
            if certificate:
                entry["certificate"] = certificate["subject"][-1][0][1]
        return entry

    def close(self):
        self.http.shutdown()
        self.http.server_close()


def failure(code, reason, message, kind="pods", name="web"):
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "details": {"name": name, "kind": kind},
        "code": code,
    }


def discovery(path):
    if path.startswith("/api/v1/namespaces/") and path.count("/") == 4:
        return {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": path.split("/")[4]}}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
    if path == "/apis":
        groups = [version.split("/") for version in RESOURCES if "/" in version]
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [group(*names) for names in groups]}
    version = path.removeprefix("/apis/").removeprefix("/api/")
    if version in RESOURCES and path.count("/") == version.count("/") + 2:
        resources = [
            {"name": plural, "singularName": singular, "namespaced": True, "kind": kind, "verbs": ["get", "list"]}
            | {"shortNames": short}
            for plural, singular, kind, short in RESOURCES[version]
        ]
        return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}
    return None


def group(name, version):
    served = {"groupVersion": f"{name}/{version}", "version": version}
    return {"name": name, "versions": [served], "preferredVersion": served}


class Proxy:
    """An HTTP, HTTPS or SOCKS5 proxy, which leads every name to loopback.

    `log` has what clients asked for, and how they logged in."""

    def __init__(self, kind, login=None, status=None, context=None):
        self.kind, self.login, self.status, self.context = kind, login, status, context
        self.log = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        try:
            if self.context:
                connection = self.context.wrap_socket(connection, server_side=True)
            with connection:
                if self.kind == "socks5":
                    self.socks(connection)
                else:
                    self.http(connection)
        except (OSError, ValueError, IndexError, struct.error):
            pass

    def http(self, connection):
        head = b""
        while b"\r\n\r\n" not in head:
            data = connection.recv(4096)
            if not data:
                return
            head += data
            if head[0] == 0x16:
                # TLS, which this proxy does not speak.
                return
        lines = head.split(b"\r\n\r\n")[0].decode().split("\r\n")
        method, target, _ = lines[0].split(" ")
        headers = {line.split(": ", 1)[0].lower(): line.split(": ", 1)[1] for line in lines[1:]}
        address = target if method == "CONNECT" else target.split("/")[2]
        self.log.append({"asked": address, "method": method, "login": headers.get("proxy-authorization")})
        status = self.status
        if self.login and headers.get("proxy-authorization") != basic(self.login):
            status = 407
        if status:
            connection.sendall(f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
            return
        with socket.create_connection(("127.0.0.1", int(address.rsplit(":", 1)[1]))) as server:
            if method == "CONNECT":
                connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                server.sendall(head)
            relay(connection, server)

    def socks(self, connection):
        _, count = receive(connection, 2)
        methods = receive(connection, count)
        login = None
        if self.login or 2 in methods:
            # The note comes before the answer: a client that is refused may have ended when the log is read.
            if 2 not in methods:
                self.log.append({"asked": None, "login": None})
                connection.sendall(b"\x05\xff")
                return
            connection.sendall(b"\x05\x02")
            _, length = receive(connection, 2)
            name = receive(connection, length).decode()
            password = receive(connection, receive(connection, 1)[0]).decode()
            login = f"{name}:{password}"
            good = login == self.login or not self.login
            if not good:
                self.log.append({"asked": None, "login": login})
                connection.sendall(b"\x01\x01")
                return
            connection.sendall(b"\x01\x00")
        else:
            connection.sendall(b"\x05\x00")
        _, _, _, form = receive(connection, 4)
        if form == 3:
            host = receive(connection, receive(connection, 1)[0]).decode()
        else:
            family, length = (socket.AF_INET, 4) if form == 1 else (socket.AF_INET6, 16)
            host = socket.inet_ntop(family, receive(connection, length))
        (port,) = struct.unpack(">H", receive(connection, 2))
        self.log.append({"asked": f"{host}:{port}", "login": login})
        with socket.create_connection(("127.0.0.1", port)) as server:
            connection.sendall(b"\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00")
            relay(connection, server)

    def close(self):
        self.listener.close()


def receive(connection, length):
    data = b""
    while len(data) < length:
        more = connection.recv(length - len(data))
        if not more:
            raise OSError("closed")
        data += more
    return data


def basic(login):
    return "Basic " + base64.b64encode(login.encode()).decode()


def relay(one, other):
    both = [one, other]
    while True:
        waiting = [one] if isinstance(one, ssl.SSLSocket) and one.pending() else select.select(both, [], [], 30)[0]
        if not waiting:
            return
        for source in waiting:
            data = source.recv(65536)
            if not data:
                return
            (other if source is one else one).sendall(data)
