"""This file owns a second cluster, as far as a client can see: a front of the API server with its own certificate and
URL, where a namespace has another one's name. So two different pods differ by their server only.
"""

import asyncio
import base64
import ssl
import subprocess
import threading
from contextlib import contextmanager, suppress
from dataclasses import replace
from urllib.parse import urlsplit

from tier import settings


@contextmanager
def another_cluster(place, namespace):
    """The place as it is seen through the front, where its namespace has the other name."""
    certificate, key = make_certificate()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="front", daemon=True)
    thread.start()
    front = Front(place, namespace)
    try:
        port = asyncio.run_coroutine_threadsafe(front.listen(certificate, key), loop).result(10)
        ca = base64.b64encode(certificate.read_bytes()).decode()
        server = f"https://127.0.0.1:{port}"
        # Zuul names a user by namespace and account, in one kubeconfig for all clusters.
        yield replace(place, namespace=namespace, server=server, ca=ca, user=f"{place.user}-there")
    finally:
        asyncio.run_coroutine_threadsafe(front.close(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


def make_certificate():
    """Signed by itself."""
    certificate, key = settings.WORK / "front.crt", settings.WORK / "front.key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=front"]
    command += ["-addext", "basicConstraints=critical,CA:FALSE", "-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


class Front:
    """One request for each connection, which may upgrade it; then bytes."""

    def __init__(self, place, namespace):
        self.upstream = urlsplit(place.server)
        self.context = ssl.create_default_context(cadata=base64.b64decode(place.ca).decode())
        self.names = (f"/namespaces/{namespace}/".encode(), f"/namespaces/{place.namespace}/".encode())
        self.tasks = set()

    async def listen(self, certificate, key):
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0, ssl=context)
        return self.server.sockets[0].getsockname()[1]

    async def close(self):
        self.server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def serve(self, reader, writer):
        self.tasks.add(asyncio.current_task())
        ends = [writer]
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            there, back = await asyncio.open_connection(self.upstream.hostname, self.upstream.port, ssl=self.context)
            ends.append(back)
            back.write(self.changed(head))
            pumps = [asyncio.ensure_future(pump(*pair)) for pair in ((reader, back), (there, writer))]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for each in pumps:
                each.cancel()
        except (OSError, EOFError):
            pass  # a client that goes away, or an API server
        finally:
            for end in ends:
                end.close()
            self.tasks.discard(asyncio.current_task())

    def changed(self, head):
        line, rest = head.split(b"\r\n", 1)
        if b"\r\nupgrade:" not in head.lower():
            rest = b"Connection: close\r\n" + rest
        return line.replace(*self.names) + b"\r\n" + rest


async def pump(reader, writer):
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
