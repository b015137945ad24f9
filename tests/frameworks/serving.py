"""Serve a WSGI application from a background thread, and watch what it does.

Thread: the test's, unless said otherwise.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from wsgiref.types import WSGIApplication

import httpx

from aiowsgi.server import Server

__all__ = ["PATIENCE", "THREADS", "Probe", "Served", "loop_factory", "serve"]

# Seconds until a test gives up; nothing waits so long when it passes.
PATIENCE = 15.0
# Threads that run the application.
THREADS = 4
# httpx reads all certificate authorities for each client unless it is given a context; nothing here uses TLS.
_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class Served:
    """A server that runs, and ways to reach it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.host = f"127.0.0.1:{port}"
        self.url = f"http://{self.host}"

    def client(self, **options: object) -> httpx.Client:
        """A client with a cookie jar and keep-alive; proxies of the environment do not apply."""
        return httpx.Client(base_url=self.url, timeout=PATIENCE, trust_env=False, verify=_TLS, **options)

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def exchange(self, data: bytes) -> bytes:
        """Send raw bytes, the last request of which closes the connection; return all that comes back."""
        with self.connect() as connection:
            connection.sendall(data)
            return b"".join(iter(lambda: connection.recv(64 * 1024), b""))

    def gather(self, paths: list[str]) -> list[httpx.Response]:
        """Get all paths at once, each over a connection of its own."""

        def get(path: str) -> httpx.Response:
            with self.client() as client:
                return client.get(path, headers={"X-Token": path, "Cookie": f"token={path}"})

        with ThreadPoolExecutor(len(paths)) as pool:
            return list(pool.map(get, paths))


class Probe:
    """What a test shares with the application's threads."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._events: Counter[str] = Counter()
        # A stream waits here before its last block.
        self.gate = threading.Semaphore(0)
        # Requests wait here until as many have come as there are threads.
        self.barrier = threading.Barrier(THREADS)

    def note(self, event: str) -> None:
        with self._condition:
            self._events[event] += 1
            self._condition.notify_all()

    def wait(self, event: str, times: int = 1) -> None:
        """Wait until the event has been noted so often."""
        with self._condition:
            arrived = self._condition.wait_for(lambda: self._events[event] >= times, PATIENCE)
            assert arrived, f"{event}: noted {self._events[event]} times, expected {times}"

    def count(self, event: str) -> int:
        with self._condition:
            return self._events[event]

    def gated_blocks(self) -> Iterator[bytes]:
        """A body whose last block is not made before the test has seen the first."""
        try:
            yield b"first\n"
            assert self.gate.acquire(timeout=PATIENCE)
            yield b"last\n"
        finally:
            self.note("gated blocks ended")

    def endless_blocks(self) -> Iterator[bytes]:
        try:
            while True:
                yield bytes(64 * 1024)
        finally:
            self.note("endless blocks ended")

    def failing_blocks(self) -> Iterator[bytes]:
        try:
            yield b"first\n"
            raise RuntimeError("midway, on purpose")
        finally:
            self.note("failing blocks ended")


def loop_factory(name: str) -> asyncio.AbstractEventLoop:
    if name == "uvloop":
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()


@contextmanager
def serve(application: WSGIApplication, loop_name: str, **options: object) -> Iterator[Served]:
    """Serve an application until the block ends; its threads have ended then, too."""
    started: Future[tuple[int, asyncio.AbstractEventLoop, asyncio.Event]] = Future()
    # Each loop with one parser: the one that every installation has, and the one that is taken where it is there.
    options = {"threads": THREADS, "loop": loop_name, "http": "h11" if loop_name == "asyncio" else "auto"} | options

    async def main() -> None:
        stop = asyncio.Event()
        async with Server(application, bind=["127.0.0.1:0"], **options) as server:
            started.set_result((server.port, asyncio.get_running_loop(), stop))
            await stop.wait()

    def run() -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: loop_factory(loop_name)) as runner:
                runner.run(main())
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    thread = threading.Thread(target=run, name=f"server on {loop_name}")
    thread.start()
    port, loop, stop = started.result(PATIENCE)
    try:
        yield Served(port)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(PATIENCE)
        assert not thread.is_alive(), "the server has not stopped"
