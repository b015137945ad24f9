"""The end of a server: what is still answered, what is closed, what is given up, and when."""

from __future__ import annotations

import asyncio
import select
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from typing import Any

import pytest

from aiowsgi.server import Server
from tests.conftest import LOOPS, ServerThread
from tests.process.server_process import wait_until
from tests.raw import RawClient

Serve = Callable[..., ServerThread]

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"
GET_HELD = b"GET /held HTTP/1.1\r\nHost: test\r\n\r\n"
LARGE = b"l" * 20_000_000
# Far below the graceful timeouts in these tests, far above what the machine needs.
PROMPT_SECONDS = 5.0
LONG_SECONDS = 30.0


class Held:
    """Answers ``/held`` once :attr:`go_on` is set, and ``/large`` with more than the kernel takes."""

    def __init__(self) -> None:
        self.go_on = threading.Event()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        environ["wsgi.input"].read()
        start_response("200 OK", [])
        if path == "/held":
            assert self.go_on.wait(20)
        return [LARGE if path == "/large" else path.encode()]


@pytest.fixture
def held() -> Iterator[Held]:
    application = Held()
    yield application
    application.go_on.set()


def begin_shutdown(server: ServerThread, graceful: float = LONG_SECONDS) -> Future[Any]:
    """Shut down without waiting for the end; return once it has begun."""
    future = asyncio.run_coroutine_threadsafe(server.server.shutdown(graceful), server.server.engine.loop)
    wait_until(lambda: server.server.engine.draining, "the beginning of the drain")
    return future


def running_count(server: ServerThread) -> int:
    return int(server.call(server.server.stats).requests.running)


def run(loop_name: str, coroutine: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=LOOPS[loop_name]) as runner:
        return runner.run(coroutine)


# What is still answered.


def test_running_and_queued_requests_are_answered_with_connection_close(serve: Serve, held: Held) -> None:
    server = serve(held, threads=1)
    with server.connect() as running, server.connect() as queued:
        running.send(GET_HELD)
        wait_until(lambda: running_count(server) == 1, "the request that runs")
        queued.send(GET)
        wait_until(lambda: server.call(server.server.stats).requests.waiting == 1, "the request that waits")
        shutdown = begin_shutdown(server)
        held.go_on.set()
        for client, content in ((running, b"/held"), (queued, b"/")):
            response = client.receive()
            assert response.content == content
            assert response.value("Connection") == "close"
            assert client.at_end()
    report = shutdown.result(PROMPT_SECONDS)
    assert (report.completed, report.abandoned) == (2, 0)


def test_connections_in_the_backlog_are_served(serve: Serve, held: Held) -> None:
    """Their clients believe that they are connected, and have sent their requests."""
    server = serve(held)
    looking = threading.Event()
    loop = server.server.engine.loop
    loop.call_soon_threadsafe(looking.wait, 10)  # so that none is accepted before the shutdown
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(100)]
        for client in clients:
            client.send(GET)
        shutdown = asyncio.run_coroutine_threadsafe(server.server.shutdown(LONG_SECONDS), loop)
        looking.set()
        for client in clients:
            response = client.receive()
            assert response.content == b"/"
            assert response.value("Connection") == "close"
            client.close()
    report = shutdown.result(PROMPT_SECONDS)
    assert (report.completed, report.abandoned) == (100, 0)


def test_request_that_is_on_its_way_to_an_idle_connection_is_answered(serve: Serve, held: Held) -> None:
    server = serve(held)
    with server.connect() as client:
        assert client.get("/").content == b"/"
        shutdown = begin_shutdown(server)
        client.send(GET)  # within the grace of a tenth of a second, or before its end was received
        try:
            assert client.receive().value("Connection") == "close"
        except ConnectionError:
            pytest.skip("this machine took longer than the grace")
    shutdown.result(PROMPT_SECONDS)


def test_content_that_is_on_its_way_is_received_and_answered(serve: Serve, held: Held) -> None:
    server = serve(held)
    with server.connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nabc")
        wait_until(lambda: server.call(server.server.stats).connections.reading, "the request")
        shutdown = begin_shutdown(server)
        assert not select.select([client.socket], [], [], 0.3)[0]
        client.send(b"defghij")
        response = client.receive()
        assert response.content == b"/"
        assert response.value("Connection") == "close"
    assert shutdown.result(PROMPT_SECONDS).abandoned == 0


def test_download_that_was_complete_for_the_application_is_delivered(serve: Serve, held: Held) -> None:
    """Its client may keep the connection, which was promised: it is closed as soon as the client has all of it."""
    server = serve(held)
    with server.connect() as client:
        client.send(b"GET /large HTTP/1.1\r\nHost: test\r\n\r\n")
        wait_until(lambda: server.server.engine.completed_count == 1, "the application's part")
        shutdown = begin_shutdown(server)
        assert client.receive().content == LARGE
        assert client.at_end()
        report = shutdown.result(PROMPT_SECONDS)
    assert (report.completed, report.abandoned) == (1, 0)


def test_client_that_keeps_its_side_open_after_a_slow_download_does_not_hold_the_drain(
    serve: Serve, held: Held
) -> None:
    server = serve(held)
    with server.connect() as client:
        client.send(b"GET /large HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        wait_until(lambda: server.server.engine.completed_count == 1, "the application's part")
        shutdown = begin_shutdown(server)
        assert client.receive().content == LARGE
        shutdown.result(PROMPT_SECONDS)
        assert client.at_end()


# What is closed.


def test_idle_connections_are_closed_and_the_port_is_free(serve: Serve, held: Held) -> None:
    server = serve(held)
    with server.connect() as kept_alive, server.connect() as silent:
        assert kept_alive.get("/").content == b"/"
        wait_until(lambda: len(server.server.engine.connections) == 2, "both connections")
        report = begin_shutdown(server).result(PROMPT_SECONDS)
        assert kept_alive.at_end()
        assert silent.at_end()
        with pytest.raises(ConnectionRefusedError):
            server.connect()
    assert (report.completed, report.abandoned) == (0, 0)


def test_new_connections_are_refused_while_requests_still_run(serve: Serve, held: Held) -> None:
    server = serve(held)
    with server.connect() as client:
        client.send(GET_HELD)
        wait_until(lambda: running_count(server) == 1, "the request")
        shutdown = begin_shutdown(server)
        with pytest.raises(ConnectionRefusedError):
            server.connect()
        held.go_on.set()
        assert client.receive().content == b"/held"
    shutdown.result(PROMPT_SECONDS)


# What is given up.


def test_drain_ends_after_graceful_and_counts_what_it_abandons(serve: Serve, held: Held) -> None:
    server = serve(held, threads=1)
    with server.connect() as running, server.connect() as queued, server.connect() as reader:
        reader.send(b"GET /large HTTP/1.1\r\nHost: test\r\n\r\n")
        wait_until(lambda: server.server.engine.completed_count == 1, "the download that is not read")
        running.send(GET_HELD)
        wait_until(lambda: running_count(server) == 1, "the request that runs")
        queued.send(GET)
        wait_until(lambda: server.call(server.server.stats).requests.waiting == 1, "the request that waits")
        begun = time.monotonic()
        report = begin_shutdown(server, 0.4).result(PROMPT_SECONDS)
        assert 0.3 < time.monotonic() - begun < PROMPT_SECONDS
        assert report.abandoned == 3
        assert report.completed == 0
        for client in (running, queued):
            assert client.read_all() == b""
    assert not server.server.engine.connections


def test_head_that_never_ends_does_not_hold_the_drain_longer_than_graceful(serve: Serve, held: Held) -> None:
    server = serve(held)
    with server.connect() as client:
        client.send(b"GET / HTTP/1.1\r\n")
        wait_until(lambda: server.call(server.server.stats).connections.reading, "the head")
        report = begin_shutdown(server, 0.3).result(PROMPT_SECONDS)
        assert report.abandoned == 0  # it was no request yet
        assert client.read_all() == b""


# Shutting down again, and otherwise.


def test_shutdown_again_waits_for_the_first_and_returns_the_same(serve: Serve, held: Held) -> None:
    server = serve(held)
    with server.connect() as client:
        client.send(GET_HELD)
        wait_until(lambda: running_count(server) == 1, "the request")
        first = begin_shutdown(server)
        second = asyncio.run_coroutine_threadsafe(server.server.shutdown(LONG_SECONDS), server.server.engine.loop)
        held.go_on.set()
        assert client.receive().content == b"/held"
        assert second.result(PROMPT_SECONDS) is first.result(PROMPT_SECONDS)


def test_second_shutdown_without_grace_cuts_the_first_short(serve: Serve, held: Held) -> None:
    server = serve(held)
    with server.connect() as client:
        client.send(GET_HELD)
        wait_until(lambda: running_count(server) == 1, "the request")
        first = begin_shutdown(server)
        second = asyncio.run_coroutine_threadsafe(server.server.shutdown(0), server.server.engine.loop)
        # The application still runs, and nobody waits for it.
        assert second.result(PROMPT_SECONDS).abandoned == 1
        assert first.result(PROMPT_SECONDS).abandoned == 1
        assert client.read_all() == b""


def test_shutdown_before_start_leaves_nothing_to_do(loop_name: str, held: Held) -> None:
    async def main() -> None:
        server = Server(held, bind=["127.0.0.1:0"])
        report = await server.shutdown()
        assert (report.completed, report.abandoned) == (0, 0)

    run(loop_name, main())


def test_shutdown_without_grace_leaves_no_connection_that_was_just_arriving(loop_name: str, held: Held) -> None:
    errors: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
        server = Server(held, bind=["127.0.0.1:0"])
        await server.start()
        with ExitStack() as stack:
            clients = []
            for _ in range(30):
                reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
                stack.callback(writer.transport.abort)
                writer.write(GET)
                clients.append(reader)
            await server.shutdown(0)
            assert not server.engine.connections
            async with asyncio.timeout(PROMPT_SECONDS):
                for reader in clients:
                    try:
                        answer = await reader.read()
                    except ConnectionError:
                        continue
                    assert answer in (b"",) or answer.startswith(b"HTTP/1.1 200 OK\r\n")
            assert not server.engine.connections

    run(loop_name, main())
    assert errors == []


def test_cancelled_serve_ends_at_once(loop_name: str, held: Held) -> None:
    async def main() -> None:
        server = Server(held, bind=["127.0.0.1:0"])
        task = asyncio.create_task(server.serve())
        while not server.urls:
            await asyncio.sleep(0)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(GET_HELD)
        async with asyncio.timeout(PROMPT_SECONDS):
            while not server.engine.exchanges:
                await asyncio.sleep(0.01)
            begun = time.monotonic()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert time.monotonic() - begun < PROMPT_SECONDS
            try:
                assert await reader.read() == b""
            except ConnectionError:
                pass
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", server.port)
        writer.transport.abort()

    run(loop_name, main())


def test_leaving_the_context_drains(loop_name: str, held: Held) -> None:
    async def main() -> bytes:
        async with Server(held, bind=["127.0.0.1:0"]) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(GET_HELD)
            async with asyncio.timeout(PROMPT_SECONDS):
                while not server.engine.exchanges:
                    await asyncio.sleep(0.01)
            asyncio.get_running_loop().call_later(0.2, held.go_on.set)
        answer = await reader.read()
        writer.transport.abort()
        return answer

    assert run(loop_name, main()).endswith(b"/held")


def test_threads_of_the_server_end_with_it(serve: Serve, held: Held) -> None:
    before = set(threading.enumerate())
    server = serve(held, threads=4)
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(4)]
        for client in clients:
            client.send(GET_HELD)
        wait_until(lambda: running_count(server) == 4, "the requests")
        held.go_on.set()
        for client in clients:
            assert client.receive().content == b"/held"
    server.stop()
    wait_until(lambda: not set(threading.enumerate()) - before, "the end of the threads")


def test_request_that_outlives_its_server_harms_nobody(serve: Serve, held: Held) -> None:
    """Its answer has nowhere to go, and its loop is closed."""
    server = serve(held)
    before = set(threading.enumerate())
    with server.connect() as client:
        client.send(GET_HELD)
        wait_until(lambda: running_count(server) == 1, "the request")
        assert begin_shutdown(server, 0).result(PROMPT_SECONDS).abandoned == 1
    server.stop()
    held.go_on.set()
    wait_until(lambda: not set(threading.enumerate()) - before, "the end of the thread")


def read_some(client: RawClient, size: int) -> None:
    while size > 0:
        size -= len(client.socket.recv(min(size, 1_000_000)))
