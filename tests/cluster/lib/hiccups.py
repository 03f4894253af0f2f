"""A server in front of the API server that answers the first connections by a plan, and passes all later ones on.

    hiccups.py KUBECONFIG PORT [STEP…]

Listens on 127.0.0.1:PORT without TLS, and takes the client certificate and the server of KUBECONFIG. Each STEP is for
one request, in order:

    429, 429:SECONDS, 500, 503 …   an answer with this status, and Retry-After
    dial                           500 "error dialing backend"
    reset, cut                     the connection is reset, or closed without an answer
    pass                           passed on
    exec=STEP                      for the first exec that comes; other requests are passed on meanwhile
    late:SECONDS                   the server begins to listen after this time: connections are refused until then
"""

import base64
import json
import os
import select
import socket
import ssl
import struct
import sys
import tempfile
import threading
import time
import urllib.parse

import yaml


def upstream(path):
    """Returns a function that connects to the API server of a kubeconfig, with its client certificate."""
    with open(path, encoding="utf-8") as file:
        config = yaml.safe_load(file)
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    server = urllib.parse.urlsplit(cluster["server"])
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE

    def content(name):
        if name in user:
            with open(os.path.join(os.path.dirname(path), user[name]), "rb") as file:
                return file.read()
        return base64.b64decode(user[name + "-data"])

    with tempfile.NamedTemporaryFile() as pair:
        pair.write(content("client-certificate") + b"\n" + content("client-key"))
        pair.flush()
        context.load_cert_chain(pair.name)

    def connect():
        return context.wrap_socket(socket.create_connection((server.hostname, server.port or 443)))

    return connect


def answer(client, step):
    """Answers one request by its step and closes the connection."""
    status, _, seconds = step.partition(":")
    if status == "reset":
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    elif status != "cut":
        refused = "error dialing backend: dial tcp 10.0.0.1:10250: connect: connection refused"
        text = refused if status == "dial" else "a hiccup"
        code = 500 if status == "dial" else int(status)
        answer = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": text, "code": code}
        body = json.dumps(answer).encode()
        wait = f"Retry-After: {seconds}\r\n" if seconds else ""
        head = f"HTTP/1.1 {code} Hiccup\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        client.sendall(f"{head}{wait}Connection: close\r\n\r\n".encode() + body)
    client.close()


def serve(client, connect, steps, lock):
    head = b""
    while b"\r\n\r\n" not in head:
        data = client.recv(65536)
        if not data:
            return client.close()
        head += data
    with lock:
        step = "pass"
        if steps and steps[0].startswith("exec="):
            if b"/exec?" in head.split(b"\r\n", 1)[0]:
                step = steps.pop(0).removeprefix("exec=")
        elif steps:
            step = steps.pop(0)
    print(step, head.split(b"\r\n", 1)[0].decode()[:60], flush=True)
    if step != "pass":
        return answer(client, step)
    # One request for each connection, so that the next one gets its own step; an upgraded connection stays.
    if b"upgrade: websocket" not in head.lower():
        head = head.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1)
    server = connect()
    server.sendall(head)
    pair = {client: server, server: client}
    while True:
        ready = [server] if server.pending() else select.select(list(pair), [], [])[0]
        for source in ready:
            try:
                data = source.recv(65536)
                pair[source].sendall(data)
            except OSError:
                data = b""
            if not data:
                client.close()
                server.close()
                return None


def main():
    connect = upstream(sys.argv[1])
    steps = sys.argv[3:]
    if steps and steps[0].startswith("late:"):
        time.sleep(float(steps.pop(0).removeprefix("late:")))
    listener = socket.create_server(("127.0.0.1", int(sys.argv[2])))
    lock = threading.Lock()
    while True:
        client, _ = listener.accept()
        threading.Thread(target=serve, args=(client, connect, steps, lock), daemon=True).start()


main()
