"""Upper bound for a direct link: one TLS stream to the pod's address that copies a file, without podbridge."""

import socket
import ssl
import subprocess

from suite.rows import Failed
from suite.settings import WORK
from suite.testbed import POD, SETUP, exec_in_pod, run

PORT = 2223
CHUNK = 1 << 20

SERVER = f"""
import socket, ssl
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/memory/raw.pem")
listener = socket.create_server(("", {PORT}))
print("ready", flush=True)
chunk = memoryview(bytearray({CHUNK}))
while True:
    stream = context.wrap_socket(listener.accept()[0], server_side=True)
    direction, path = stream.recv(4096).decode().split()
    with open(path, "wb" if direction == "in" else "rb", buffering=0) as file:
        read, write = (stream.recv_into, file.write) if direction == "in" else (file.readinto, stream.sendall)
        while count := read(chunk):
            write(chunk[:count])
    stream.unwrap()
"""


class RawTls:
    """TLS server in the pod and its client: `up` copies a file into the pod, `down` out of it."""

    def __init__(self, address):
        self.address = address
        pem = WORK / "raw.pem"
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-keyout", pem]
        certificate = run(["openssl", "req", "-x509", *key, "-subj", "/CN=raw"])
        run([*SETUP, "exec", "-i", POD, "--", "sh", "-c", "cat >/memory/raw.pem"], input=pem.read_bytes() + certificate)
        self.server = subprocess.Popen(
            [*SETUP, "exec", POD, "--", "python3", "-c", SERVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        if self.server.stdout.readline() != b"ready\n":
            raise Failed("the TLS server in the pod did not start")
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.context.check_hostname, self.context.verify_mode = False, ssl.CERT_NONE

    def up(self, here, there):
        with open(here, "rb", buffering=0) as file, self.stream("in", there) as stream:
            copy_stream(file.readinto, stream.sendall)
            # The server answers the close_notify after it has written everything.
            stream.unwrap()

    def down(self, there, here):
        with open(here, "wb", buffering=0) as file, self.stream("out", there) as stream:
            copy_stream(stream.recv_into, file.write)

    def stream(self, direction, there):
        stream = self.context.wrap_socket(socket.create_connection((self.address, PORT)))
        stream.sendall(f"{direction} {there}".encode())
        return stream

    def close(self):
        exec_in_pod("pkill -f 'load_cert_chai[n]'; rm /memory/raw.pem")
        self.server.wait()


def copy_stream(read, write):
    """Copies until `read` returns 0."""
    chunk = memoryview(bytearray(CHUNK))
    while count := read(chunk):
        write(chunk[:count])
