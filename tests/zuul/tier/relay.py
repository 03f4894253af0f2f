"""TCP relay to a cluster in another network namespace: it listens in this namespace and connects in the other one."""

import asyncio
import ctypes
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

CLONE_NEWNET = 0x40000000


@contextmanager
def relay(server, netns):
    """Relays to the URL `server` inside `netns` and yields the URL to use in this namespace."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="relay", daemon=True)
    thread.start()
    url = urlsplit(server)
    # A socket belongs to the network namespace of the thread that makes it.
    with ThreadPoolExecutor(1, initializer=enter_netns, initargs=(netns,)) as connector:
        listener = Relay(lambda: connector.submit(socket.create_connection, (url.hostname, url.port), 10))
        try:
            port = asyncio.run_coroutine_threadsafe(listener.listen(), loop).result(10)
            yield f"https://127.0.0.1:{port}"
        finally:
            asyncio.run_coroutine_threadsafe(listener.close(), loop).result(10)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
            loop.close()


def enter_netns(netns):
    """Moves the calling thread, and no other, into the network namespace."""
    descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(descriptor)


class Relay:
    """Listener that copies each connection in both directions; `connect()` returns a Future of the remote socket."""

    def __init__(self, connect):
        self.connect = connect
        self.tasks = set()

    async def listen(self):
        """Starts to listen on 127.0.0.1 and returns the port."""
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        return self.server.sockets[0].getsockname()[1]

    async def close(self):
        self.server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def serve(self, reader, writer):
        self.tasks.add(asyncio.current_task())
        writers = [writer]
        try:
            connected = await asyncio.wrap_future(self.connect())
            connected.setblocking(False)
            remote_reader, remote_writer = await asyncio.open_connection(sock=connected)
            writers.append(remote_writer)
            await asyncio.gather(copy_stream(reader, remote_writer), copy_stream(remote_reader, writer))
        except (OSError, asyncio.CancelledError):
            pass  # the API server does not answer, or the relay is closing; no caller waits for this task
        finally:
            for each in writers:
                each.close()
            self.tasks.discard(asyncio.current_task())


async def copy_stream(reader, writer):
    """Copies bytes until the end of the stream, and then ends the other stream."""
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
