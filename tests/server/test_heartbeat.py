"""What else runs in a server's loop is not held up by applications that compute.

How late a task is depends on the machine and on what else runs there. So nothing is asserted of a time: the same load
is put on the same loop, with what the server does against it and without, one after the other.
"""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import aiowsgi.bridge.wakeup
from aiowsgi.server import Server
from tests.conftest import LOOPS

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

PYTHONS_INTERVAL = sys.getswitchinterval()
THREAD_COUNT = 8
CLIENT_COUNT = 64
MEASURED_SECONDS = 1.0
ATTEMPT_COUNT = 6
HELD_UP = 1.0  # seconds

# In a process of its own, so that it wants nothing of the interpreter that is measured.
CLIENTS = """
import selectors, socket, sys

selector = selectors.DefaultSelector()
for _ in range(int(sys.argv[2])):
    sock = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    selector.register(sock, selectors.EVENT_READ)
    sock.sendall(b"GET / HTTP/1.1\\r\\nHost: test\\r\\n\\r\\n")
while True:
    for key, _ in selector.select():
        if not key.fileobj.recv(65536):
            sys.exit()
        key.fileobj.sendall(b"GET / HTTP/1.1\\r\\nHost: test\\r\\n\\r\\n")
"""


def computing(count: int) -> WSGIApplication:
    """Return an application that does some work in Python, and waits for nothing."""

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        for _ in range(count):
            pass
        start_response("200 OK", [])
        return [b"done"]

    return application


async def lateness(application: WSGIApplication, **options: Any) -> float:
    """Return by how much a task beside a server under full load is late, in seconds: nine times of ten by less."""
    late: list[float] = []
    # All threads at once, since it is of them that a loop has to be protected.
    options = {"concurrency": "fixed", **options}
    async with Server(application, bind=["127.0.0.1:0"], threads=THREAD_COUNT, **options) as server:
        command = [sys.executable, "-c", CLIENTS, str(server.port), str(CLIENT_COUNT)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            try:
                while server.stats().requests.done < 2 * CLIENT_COUNT:
                    await asyncio.sleep(0.01)
                end = time.monotonic() + MEASURED_SECONDS
                while (now := time.monotonic()) < end:
                    await asyncio.sleep(0.005)
                    late.append(time.monotonic() - now - 0.005)
            finally:
                process.kill()
        await server.shutdown(0)
    return sorted(late)[len(late) * 9 // 10]


def compare(loop_name: str, measure: Callable[[bool], Any]) -> None:
    """Measure with what the server does and without, until there is a clear difference."""
    figures = []
    with asyncio.Runner(loop_factory=LOOPS[loop_name]) as runner:
        for _ in range(ATTEMPT_COUNT):
            with_it, without = (runner.run(measure(served_well)) for served_well in (True, False))
            figures.append((round(with_it * 1000), round(without * 1000)))
            if with_it < 0.6 * without:
                break
        else:
            pytest.fail(f"ms late with and without: {figures}")
    print(f"ms late with and without, {loop_name}: {figures}")


def test_task_beside_long_computations_is_less_late_by_the_switch_interval(loop_name: str) -> None:
    application = computing(400_000)  # some 10 ms

    async def measure(short: bool) -> float:
        options = {} if short else {"switch_interval": 0}
        return await lateness(application, **options)

    compare(loop_name, measure)


@contextmanager
def never_late() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aiowsgi.bridge.wakeup, "_LATE_SECONDS", float("inf"))
        yield


def test_task_beside_short_computations_is_less_late_where_threads_give_way(loop_name: str) -> None:
    application = computing(40_000)  # some ms

    async def measure(give_way: bool) -> float:
        # Under Python's interval, so that it is this alone which helps.
        if give_way:
            return await lateness(application, switch_interval=0)
        with never_late():
            return await lateness(application, switch_interval=0)

    compare(loop_name, measure)


# How the server has the interval.


def hold_up(server: Server) -> None:
    """Tell a server that its loop is held up, by jobs that compute for long."""
    haste = server.engine.haste
    haste.note(HELD_UP)
    for _ in range(16):
        haste.judge(0.01)
    haste.note(HELD_UP)


async def test_server_that_is_held_up_has_the_switch_interval_until_its_end() -> None:
    async with Server(computing(1), bind=["127.0.0.1:0"]) as server:
        assert sys.getswitchinterval() == PYTHONS_INTERVAL
        hold_up(server)
        assert sys.getswitchinterval() == pytest.approx(0.0001)
        async with Server(computing(1), bind=["127.0.0.1:0"], switch_interval=0.00005) as other:
            hold_up(other)
            assert sys.getswitchinterval() == pytest.approx(0.00005)
        assert sys.getswitchinterval() == pytest.approx(0.0001)
    assert sys.getswitchinterval() == PYTHONS_INTERVAL


async def test_server_that_cannot_start_leaves_the_switch_interval_alone() -> None:
    async with Server(computing(1), bind=["127.0.0.1:0"], switch_interval=0) as server:
        with pytest.raises(OSError, match="in use"):
            await Server(computing(1), bind=[f"127.0.0.1:{server.port}"]).start()
        assert sys.getswitchinterval() == PYTHONS_INTERVAL


async def test_server_with_a_listener_of_the_programs_own_has_the_switch_interval_until_its_shutdown() -> None:
    server = Server(computing(1))
    assert sys.getswitchinterval() == PYTHONS_INTERVAL
    server.protocol_factory()
    server.protocol_factory()
    hold_up(server)
    assert sys.getswitchinterval() == pytest.approx(0.0001)
    await server.shutdown(0)
    await server.shutdown(0)
    assert sys.getswitchinterval() == PYTHONS_INTERVAL


# How requests that only compute come one after another.


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="this kernel does not tell of its scheduler")
@pytest.mark.skipif(not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="there is no interpreter lock")
async def test_requests_that_only_compute_come_one_after_another_until_there_are_none() -> None:
    at_once: list[int] = []
    working: list[None] = []
    compute = computing(20_000)  # some half a millisecond

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        working.append(None)
        at_once.append(len(working))
        try:
            return compute(environ, start_response)
        finally:
            working.pop()

    async with Server(application, bind=["127.0.0.1:0"], threads=THREAD_COUNT) as server:
        saturation = server.engine.saturation
        command = [sys.executable, "-c", CLIENTS, str(server.port), str(CLIENT_COUNT)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            try:
                async with asyncio.timeout(60):
                    while not saturation.taking_turns:
                        await asyncio.sleep(0.01)
                    at_once.clear()
                    while len(at_once) < 200:
                        await asyncio.sleep(0.01)
                        if not saturation.taking_turns:
                            at_once.clear()
            finally:
                process.kill()
        # Each has a thread to itself; a job that the machine keeps from its core for long has another one beside it.
        assert sorted(at_once)[len(at_once) // 2] == 1
        async with asyncio.timeout(60):
            while saturation.taking_turns:
                await asyncio.sleep(0.01)


async def test_server_with_fixed_concurrency_never_looks() -> None:
    async with Server(computing(1), bind=["127.0.0.1:0"], concurrency="fixed") as server:
        assert server.engine.saturation.next_look == math.inf
