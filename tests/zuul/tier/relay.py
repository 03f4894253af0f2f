"""This file owns the way to a cluster in another network namespace: it listens here, and connects there."""

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
    """The URL that `server` has here, while it lasts."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="relay", daemon=True)
    thread.start()
    at = urlsplit(server)
    # A socket belongs to the namespace that its thread was in when it was made.
    with ThreadPoolExecutor(1, initializer=enter, initargs=(netns,)) as there:
        way = Relay(lambda: there.submit(socket.create_connection, (at.hostname, at.port), 10))
        try:
            port = asyncio.run_coroutine_threadsafe(way.listen(), loop).result(10)
            yield f"https://127.0.0.1:{port}"
        finally:
            asyncio.run_coroutine_threadsafe(way.close(), loop).result(10)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(10)
            loop.close()


def enter(netns):
    """This thread alone goes there."""
    descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
    finally:
        os.close(descriptor)


class Relay:
    """Bytes both ways."""

    def __init__(self, connect):
        self.connect = connect
        self.tasks = set()

    async def listen(self):
        self.server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
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
            connected = await asyncio.wrap_future(self.connect())
            connected.setblocking(False)
            there, back = await asyncio.open_connection(sock=connected)
            ends.append(back)
            await asyncio.gather(pump(reader, back), pump(there, writer))
        except (OSError, asyncio.CancelledError):
            pass  # an API server that is not there, or the end of the relay; a server's task has nobody else to tell
        finally:
            for end in ends:
                end.close()
            self.tasks.discard(asyncio.current_task())


async def pump(reader, writer):
    """To the end of what comes, which is passed on."""
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
