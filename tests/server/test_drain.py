"""The end of a server: what is still answered, what is closed, what is given up, and when."""

from __future__ import annotations

import asyncio
import select
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, suppress
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


def ended(server: ServerThread, shutdown: Future[Any]) -> Any:
    """Wait for the end of a shutdown and of the server's loop; return the report."""
    report = shutdown.result(PROMPT_SECONDS)
    wait_until(lambda: not server._thread.is_alive(), "the end of the loop")
    return report


def refuses(server: ServerThread) -> bool:
    try:
        server.connect().close()
    except ConnectionRefusedError:
        return True
    return False


def running_count(server: ServerThread) -> int:
    return int(server.call(server.server.stats).requests.running)


def remains(client: RawClient) -> bytes:
    """Return what is still to be received, and nothing after a reset."""
    with suppress(ConnectionError):
        return client.read_all()
    return b""


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
    report = ended(server, shutdown)
    assert (report.completed, report.abandoned) == (2, 0)


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
    ended(server, shutdown)


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
    assert ended(server, shutdown).abandoned == 0


def wait_for_application(server: ServerThread) -> None:
    """Wait until an application has begun, and none runs."""
    engine = server.server.engine
    wait_until(lambda: engine.queue_waits and not engine.exchanges, "the application's part")


def test_download_that_was_complete_for_the_application_is_delivered(serve: Serve, held: Held) -> None:
    """Its client may keep the connection, which was promised: it is closed as soon as the client has all of it."""
    server = serve(held)
    with server.connect() as client, server.connect() as idle:
        client.send(b"GET /large HTTP/1.1\r\nHost: test\r\n\r\n")
        wait_for_application(server)
        shutdown = begin_shutdown(server)
        assert idle.at_end()  # the idle ones have been closed; this one was none of them
        assert client.receive().content == LARGE
        assert client.at_end()
        report = ended(server, shutdown)
    assert (report.completed, report.abandoned) == (1, 0)


def test_client_that_keeps_its_side_open_after_a_slow_download_does_not_hold_the_drain(
    serve: Serve, held: Held
) -> None:
    server = serve(held)
    with server.connect() as client, server.connect() as idle:
        client.send(b"GET /large HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        wait_for_application(server)
        shutdown = begin_shutdown(server)
        assert idle.at_end()
        assert client.receive().content == LARGE
        ended(server, shutdown)
        assert client.at_end()


# What is closed.


def test_idle_connections_are_closed_and_the_port_is_free(serve: Serve, held: Held) -> None:
    server = serve(held)
    with server.connect() as kept_alive, server.connect() as silent:
        assert kept_alive.get("/").content == b"/"
        wait_until(lambda: len(server.server.engine.connections) == 2, "both connections")
        report = ended(server, begin_shutdown(server))
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
        wait_until(lambda: refuses(server), "the end of listening")
        held.go_on.set()
        assert client.receive().content == b"/held"
    ended(server, shutdown)


# What is given up.


def test_drain_ends_after_graceful_and_counts_what_it_abandons(serve: Serve, held: Held) -> None:
    server = serve(held, threads=1)
    with server.connect() as running, server.connect() as queued, server.connect() as reader:
        reader.send(b"GET /large HTTP/1.1\r\nHost: test\r\n\r\n")
        wait_for_application(server)
        running.send(GET_HELD)
        wait_until(lambda: running_count(server) == 1, "the request that runs")
        queued.send(GET)
        wait_until(lambda: server.call(server.server.stats).requests.waiting == 1, "the request that waits")
        begun = time.monotonic()
        report = ended(server, begin_shutdown(server, 0.4))
        assert 0.3 < time.monotonic() - begun < PROMPT_SECONDS
        assert report.abandoned == 3
        assert report.completed == 0
        for client in (running, queued):
            assert remains(client) == b""
    assert not server.server.engine.connections


def test_head_that_never_ends_does_not_hold_the_drain_longer_than_graceful(serve: Serve, held: Held) -> None:
    server = serve(held)
    with server.connect() as client:
        client.send(b"GET / HTTP/1.1\r\n")
        wait_until(lambda: server.call(server.server.stats).connections.reading, "the head")
        report = ended(server, begin_shutdown(server, 0.3))
        assert report.abandoned == 0  # it was no request yet
        assert remains(client) == b""


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
        assert ended(server, second) is first.result(PROMPT_SECONDS)


def test_second_shutdown_without_grace_cuts_the_first_short(serve: Serve, held: Held) -> None:
    server = serve(held)
    with server.connect() as client:
        client.send(GET_HELD)
        wait_until(lambda: running_count(server) == 1, "the request")
        first = begin_shutdown(server)
        second = asyncio.run_coroutine_threadsafe(server.server.shutdown(0), server.server.engine.loop)
        # The application still runs, and nobody waits for it.
        assert ended(server, second).abandoned == 1
        assert first.result(PROMPT_SECONDS).abandoned == 1
        assert remains(client) == b""


def test_shutdown_before_start_leaves_nothing_to_do(loop_name: str, held: Held) -> None:
    async def main() -> None:
        server = Server(held, bind=["127.0.0.1:0"])
        report = await server.shutdown()
        assert (report.completed, report.abandoned) == (0, 0)

    run(loop_name, main())


def connect(server: Server) -> RawClient:
    """Connect without waiting for the loop: the kernel answers for it."""
    return RawClient(socket.create_connection(("127.0.0.1", server.port), PROMPT_SECONDS))


async def begin_held(server: Server, client: RawClient) -> None:
    client.send(GET_HELD)
    async with asyncio.timeout(PROMPT_SECONDS):
        while not server.stats().requests.running:
            await asyncio.sleep(0.01)


def test_connections_in_the_backlog_are_served(loop_name: str, held: Held) -> None:
    """Their clients believe that they are connected, and have sent their requests."""

    def receive(clients: list[RawClient]) -> None:
        for client in clients:
            response = client.receive()
            assert response.content == b"/"
            assert response.value("Connection") == "close"
            assert client.at_end()
            client.close()

    async def main(stack: ExitStack) -> None:
        server = Server(held, bind=["127.0.0.1:0"])
        await server.start()
        clients = [stack.enter_context(connect(server)) for _ in range(200)]
        for client in clients:
            client.send(GET)
        # Until now the loop has had no turn to accept any of them.
        received = asyncio.create_task(asyncio.to_thread(receive, clients))
        report = await server.shutdown(LONG_SECONDS)
        await received
        assert (report.completed, report.abandoned) == (200, 0)

    with ExitStack() as stack:
        run(loop_name, main(stack))


def test_shutdown_without_grace_leaves_no_connection_that_was_just_arriving(
    loop_name: str, held: Held, error_log: pytest.LogCaptureFixture
) -> None:
    errors: list[dict[str, Any]] = []
    clients: list[RawClient] = []

    async def main(stack: ExitStack) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
        server = Server(held, bind=["127.0.0.1:0"])
        await server.start()
        for _ in range(30):
            clients.append(stack.enter_context(connect(server)))
            clients[-1].send(GET)
        await server.shutdown(0)
        # Nothing of them turns up later.
        for _ in range(10):
            await asyncio.sleep(0.001)
            assert not server.engine.connections
            assert not server.engine.exchanges

    with ExitStack() as stack:
        run(loop_name, main(stack))
        for client in clients:
            remains(client)  # comes to an end
    assert errors == []
    assert error_log.records == []


def test_cancelled_serve_ends_at_once(loop_name: str, held: Held) -> None:
    async def main(stack: ExitStack) -> RawClient:
        server = Server(held, bind=["127.0.0.1:0"])
        task = asyncio.create_task(server.serve())
        while not server.urls:
            await asyncio.sleep(0)
        client = stack.enter_context(connect(server))
        await begin_held(server, client)
        begun = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - begun < PROMPT_SECONDS
        with pytest.raises(ConnectionRefusedError):
            connect(server)
        return client

    with ExitStack() as stack:
        assert remains(run(loop_name, main(stack))) == b""


def test_leaving_the_context_drains(loop_name: str, held: Held) -> None:
    async def main(stack: ExitStack) -> RawClient:
        async with Server(held, bind=["127.0.0.1:0"]) as server:
            client = stack.enter_context(connect(server))
            await begin_held(server, client)
            asyncio.get_running_loop().call_later(0.2, held.go_on.set)
        return client

    with ExitStack() as stack:
        assert run(loop_name, main(stack)).receive().content == b"/held"


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
        assert ended(server, begin_shutdown(server, 0)).abandoned == 1
    server.stop()
    held.go_on.set()
    wait_until(lambda: not set(threading.enumerate()) - before, "the end of the thread")
