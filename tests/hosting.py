"""What the tests of embedding share: a host program's loop, its clients, and a count of what it holds."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tests.conftest import LOOPS
from tests.process.server_process import ServerProcess, environment

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

__all__ = [
    "PATIENCE",
    "Gated",
    "ask",
    "client_of",
    "descriptor_count",
    "eventually",
    "hello",
    "poll",
    "program",
    "request",
    "run_in_loop",
    "workers",
]

T = TypeVar("T")

# Seconds until a test gives up; nothing waits so long when it passes.
PATIENCE = 15.0


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


class Gated:
    """An application whose requests run until they are let go, and that knows how many do."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._open = False
        self.running = 0
        self.most_running = 0
        self.ended = 0

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        with self._condition:
            self.running += 1
            self.most_running = max(self.most_running, self.running)
            self._condition.notify_all()
            assert self._condition.wait_for(lambda: self._open, PATIENCE)
            self.running -= 1
            self.ended += 1
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"let go"]

    def open(self) -> None:
        """Let all requests go, now and from now on."""
        with self._condition:
            self._open = True
            self._condition.notify_all()


def run_in_loop(loop_name: str, main: Callable[[], Awaitable[T]]) -> T:
    """Run a coroutine function as the host program's main task."""

    async def bounded() -> T:
        async with asyncio.timeout(PATIENCE):
            return await main()

    with asyncio.Runner(loop_factory=LOOPS[loop_name]) as runner:
        return runner.run(bounded())


async def eventually(condition: Callable[[], object]) -> None:
    """Wait until a condition holds, for a bounded time."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.002)


def poll(condition: Callable[[], object]) -> None:
    """Wait until a condition holds, for a bounded time, where no loop runs."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


@asynccontextmanager
async def client_of(address: int | str) -> AsyncIterator[tuple[asyncio.StreamReader, Any]]:
    """Connect to a port, or to a Unix socket's path."""
    if isinstance(address, str):
        reader, writer = await asyncio.open_unix_connection(address)
    else:
        reader, writer = await asyncio.open_connection("127.0.0.1", address)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):  # the server was first
            await writer.wait_closed()


def request(target: str = "/", *fields: str, method: str = "GET") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: test", *fields, "", ""]).encode()


async def ask(address: int | str, target: str = "/") -> bytes:
    """Get one response, head and content, over a connection of its own."""
    async with client_of(address) as (reader, writer):
        writer.write(request(target, "Connection: close"))
        return await reader.read()


def descriptor_count() -> int:
    return len(os.listdir("/dev/fd"))


def workers() -> set[threading.Thread]:
    """Return the threads of all pools."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("aiowsgi-")}


@contextmanager
def program(folder: Path, source: str) -> Iterator[ServerProcess]:
    """Run a Python program beside ``app.py``, which has an application; kill it in the end if it is still there."""
    (folder / "app.py").write_text("from tests.hosting import hello\n")
    (folder / "program.py").write_text(source)
    log_path = folder / "log"
    with (
        log_path.open("wb") as log,
        subprocess.Popen(
            [sys.executable, "program.py"],
            cwd=folder,
            env=environment(PYTHONWARNINGS="error", PYTHONUNBUFFERED="1"),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        ) as process,
    ):
        try:
            yield ServerProcess(process, log_path)
        finally:
            if process.poll() is None:
                process.kill()
