"""``Server.stats()`` in each state of connections, requests and threads."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aiowsgi import Server, ThreadPool, park
from aiowsgi.server.stats import ConnectionStats, QueueWaitStats, RequestStats, ServerStats, ThreadStats
from tests.hosting import Gated, ask, client_of, eventually, hello, poll, request, run_in_loop

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

FREE_PORT = ("127.0.0.1:0",)
LARGE = 32 * 1024 * 1024


def requests_of(server: Server) -> tuple[int, int, int, int]:
    stats = server.stats().requests
    return stats.waiting, stats.running, stats.streaming, stats.done


def connections_of(server: Server) -> tuple[int, int, int, int]:
    stats = server.stats().connections
    return stats.idle, stats.reading, stats.writing, stats.closing


def threads_of(server: Server) -> tuple[int, int, int]:
    stats = server.stats().threads
    return stats.idle, stats.running, stats.stalled


def test_stats_of_a_server_that_has_just_started_are_all_zero(loop_name: str) -> None:
    async def main() -> None:
        async with Server(hello, bind=FREE_PORT) as server:
            assert server.stats() == ServerStats(
                ConnectionStats(idle=0, reading=0, writing=0, closing=0),
                RequestStats(waiting=0, running=0, streaming=0, parked=0, done=0),
                ThreadStats(idle=0, running=0, stalled=0),
                QueueWaitStats(p50=0.0, p90=0.0, p99=0.0),
            )

    run_in_loop(loop_name, main)


def test_stats_before_the_start_are_refused() -> None:
    with pytest.raises(RuntimeError, match="not been started"):
        Server(hello, bind=FREE_PORT).stats()


def test_stats_after_the_end_keep_what_was_done(loop_name: str) -> None:
    async def main() -> None:
        async with Server(hello, bind=FREE_PORT) as server:
            await ask(server.port)
            await ask(server.port)
        assert connections_of(server) == (0, 0, 0, 0)
        assert requests_of(server) == (0, 0, 0, 2)
        await eventually(lambda: threads_of(server) == (0, 0, 0))

    run_in_loop(loop_name, main)


def test_connection_goes_through_idle_reading_writing_and_closing(loop_name: str) -> None:
    application = Gated()

    async def main() -> None:
        async with Server(application, bind=FREE_PORT) as server, client_of(server.port) as (reader, writer):
            await eventually(lambda: connections_of(server) == (1, 0, 0, 0))
            writer.write(b"POST / HTTP/1.1\r\nHost: ")
            await eventually(lambda: connections_of(server) == (0, 1, 0, 0))  # a head
            writer.write(b"test\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
            await reader.readuntil(b"HTTP/1.1 100 ")
            assert connections_of(server) == (0, 1, 0, 0)  # content
            assert requests_of(server) == (0, 0, 0, 0)
            writer.write(b"1234")
            await eventually(lambda: connections_of(server) == (0, 0, 1, 0))
            application.open()
            await reader.readuntil(b"let go")
            assert connections_of(server) == (1, 0, 0, 0)
            writer.write(b"nonsense\r\n\r\n")
            await reader.readuntil(b"HTTP/1.1 400 ")
            await eventually(lambda: connections_of(server) == (0, 0, 0, 1))

    run_in_loop(loop_name, main)


def test_request_goes_through_waiting_running_and_done(loop_name: str) -> None:
    application = Gated()

    async def main() -> None:
        async with Server(application, bind=FREE_PORT, threads=1) as server:
            answers = [asyncio.create_task(ask(server.port)) for _ in range(3)]
            await eventually(lambda: requests_of(server) == (2, 1, 0, 0))
            assert threads_of(server) == (0, 1, 0)
            assert connections_of(server) == (0, 0, 3, 0)
            application.open()
            await asyncio.gather(*answers)
            await eventually(lambda: requests_of(server) == (0, 0, 0, 3))
            await eventually(lambda: threads_of(server) == (1, 0, 0))

    run_in_loop(loop_name, main)


def test_generator_that_goes_on_is_streaming_and_its_thread_runs(loop_name: str) -> None:
    go_on = threading.Event()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"first"
        go_on.wait()
        yield b"last"

    async def main() -> None:
        async with Server(application, bind=FREE_PORT) as server, client_of(server.port) as (reader, writer):
            writer.write(request())
            await reader.readuntil(b"first")
            assert requests_of(server) == (0, 0, 1, 0)
            assert threads_of(server) == (0, 1, 0)
            go_on.set()
            await reader.readuntil(b"last")
            await eventually(lambda: requests_of(server) == (0, 0, 0, 1))

    try:
        run_in_loop(loop_name, main)
    finally:
        go_on.set()


def test_generator_whose_client_does_not_read_is_streaming_and_its_thread_is_stalled(loop_name: str) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        for _ in range(LARGE // (256 * 1024)):
            yield bytes(256 * 1024)

    async def main() -> None:
        async with Server(application, bind=FREE_PORT) as server, client_of(server.port) as (reader, writer):
            writer.write(request("/", "Connection: close"))
            await eventually(lambda: threads_of(server) == (0, 0, 1))
            assert requests_of(server) == (0, 0, 1, 0)
            assert connections_of(server) == (0, 0, 1, 0)
            while await reader.read(1024 * 1024):
                pass
            await eventually(lambda: requests_of(server) == (0, 0, 0, 1))
            await eventually(lambda: threads_of(server) == (1, 0, 0))

    run_in_loop(loop_name, main)


def test_parked_response_is_streaming_without_a_thread(loop_name: str) -> None:
    ending = asyncio.Event()

    async def events() -> AsyncIterator[bytes]:
        yield b"first"
        await ending.wait()
        yield b"last"

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return park(environ, events())

    async def main() -> None:
        async with Server(application, bind=FREE_PORT) as server, client_of(server.port) as (reader, writer):
            writer.write(request())
            await reader.readuntil(b"first")
            await eventually(lambda: threads_of(server) == (1, 0, 0))
            assert requests_of(server) == (0, 0, 1, 0)
            assert server.stats().requests.parked == 1
            assert connections_of(server) == (0, 0, 1, 0)
            ending.set()
            await reader.readuntil(b"last")
            await eventually(lambda: requests_of(server) == (0, 0, 0, 1))
            assert server.stats().requests.parked == 0

    run_in_loop(loop_name, main)


def test_file_whose_client_does_not_read_is_streaming_without_a_thread(loop_name: str, tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(LARGE)

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", str(LARGE))])
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](path.open("rb"))
        return wrapped

    async def main() -> None:
        async with Server(application, bind=FREE_PORT) as server, client_of(server.port) as (reader, writer):
            writer.write(request("/", "Connection: close"))
            await eventually(lambda: requests_of(server) == (0, 0, 1, 0) and threads_of(server) == (1, 0, 0))
            while await reader.read(1024 * 1024):
                pass
            await eventually(lambda: requests_of(server) == (0, 0, 0, 1))

    run_in_loop(loop_name, main)


def test_request_whose_client_has_gone_runs_without_a_connection(loop_name: str) -> None:
    application = Gated()

    async def main() -> None:
        async with Server(application, bind=FREE_PORT) as server:
            async with client_of(server.port) as (_, writer):
                writer.write(request())
                await eventually(lambda: application.running)
                # Closed with a reset: an orderly end might be that of its sending side alone.
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()
            await eventually(lambda: connections_of(server) == (0, 0, 0, 0))
            assert requests_of(server) == (0, 1, 0, 0)
            application.open()
            await eventually(lambda: requests_of(server) == (0, 0, 0, 0))

    run_in_loop(loop_name, main)


def test_queue_wait_is_what_requests_waited_for_a_thread(loop_name: str) -> None:
    application = Gated()

    async def main() -> None:
        async with Server(application, bind=FREE_PORT, threads=1) as server:
            first = asyncio.create_task(ask(server.port))
            await eventually(lambda: application.running)
            second = asyncio.create_task(ask(server.port))
            await eventually(lambda: requests_of(server) == (1, 1, 0, 0))
            began = asyncio.get_running_loop().time()
            await asyncio.sleep(0.05)
            application.open()
            await asyncio.gather(first, second)
            waited = asyncio.get_running_loop().time() - began
            waits = server.stats().queue_wait
            assert 0.05 <= waits.p99 <= waited + 1
            assert 0.0 < waits.p50 <= waits.p90 <= waits.p99

    run_in_loop(loop_name, main)


def test_threads_of_a_shared_pool_are_those_of_all_its_servers(loop_name: str) -> None:
    application = Gated()
    pool = ThreadPool(4)

    async def main() -> None:
        async with (
            Server(application, bind=FREE_PORT, pool=pool) as busy,
            Server(hello, bind=FREE_PORT, pool=pool) as quiet,
        ):
            answer = asyncio.create_task(ask(busy.port))
            await eventually(lambda: threads_of(quiet) == threads_of(busy) == (0, 1, 0))
            assert requests_of(busy) == (0, 1, 0, 0)
            assert requests_of(quiet) == (0, 0, 0, 0)
            application.open()
            await answer

    run_in_loop(loop_name, main)
    pool.close()
    poll(lambda: pool.stats().idle == 0)


def test_stats_never_count_a_request_twice_while_workers_go_on(
    loop_name: str,
) -> None:
    """What a snapshot says of the workers is a moment old, but never impossible."""

    async def main() -> None:
        async with Server(hello, bind=FREE_PORT, threads=2) as server, contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(client_of(server.port)) for _ in range(150)]
            for count in range(1, 16):
                for _, writer in clients:
                    writer.write(request())
                while server.stats().requests.done < count * len(clients):
                    assert min(requests_of(server)) >= 0
                    await asyncio.sleep(0)
                for reader, _ in clients:
                    await reader.readuntil(b"hello")

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that workers run in the middle of it
    try:
        run_in_loop(loop_name, main)
    finally:
        sys.setswitchinterval(interval)
