"""API servers and proxies on loopback. Each notes who asked, and with which credentials."""

import base64
import http.server
import json
import select
import socket
import ssl
import struct
import threading

POD_PATH = "/pods/"


class ApiServer:
    """Answers 404 for every pod, and as little discovery as kubectl needs.

    `log` has an entry for each request for a pod."""

    def __init__(self, context=None, token=None, prefix="", host="127.0.0.1"):
        self.log = []
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
            discovered = discovery(path.removeprefix(self.prefix))
            if discovered:
                status, answer = 200, discovered
        if POD_PATH in path:
            if status == 404:
                name = path.split(POD_PATH)[1].split("/")[0]
                answer = failure(404, "NotFound", f'pods "{name}" not found')
            self.log.append(self.entry(request, path, status))
        body = json.dumps(answer).encode()
        request.send_response(status)
        request.send_header("Content-Type", "application/json")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

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


def failure(code, reason, message):
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "details": {"name": "web", "kind": "pods"},
        "code": code,
    }


def discovery(path):
    if path.startswith("/api/v1/namespaces/") and path.count("/") == 4:
        return {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": path.split("/")[4]}}
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
    if path == "/apis":
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": []}
    if path == "/api/v1":
        pods = {"name": "pods", "singularName": "pod", "namespaced": True, "kind": "Pod", "verbs": ["get", "list"]}
        return {"kind": "APIResourceList", "groupVersion": "v1", "resources": [pods | {"shortNames": ["po"]}]}
    return None


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
            connection.sendall(b"\x05\x02" if 2 in methods else b"\x05\xff")
            if 2 not in methods:
                self.log.append({"asked": None, "login": None})
                return
            _, length = receive(connection, 2)
            name = receive(connection, length).decode()
            password = receive(connection, receive(connection, 1)[0]).decode()
            login = f"{name}:{password}"
            good = login == self.login or not self.login
            connection.sendall(b"\x01\x00" if good else b"\x01\x01")
            if not good:
                self.log.append({"asked": None, "login": login})
                return
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
