"""A server in a program's own event loop: how it starts, how it ends, and what is left then."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import sys
import threading
import time
import warnings
import weakref
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
import pytest

from aiowsgi import Channel, ConfigError, DrainReport, Server, StartupError, park
from tests.conftest import LOOPS
from tests.hosting import (
    PATIENCE,
    Gated,
    ask,
    client_of,
    descriptor_count,
    eventually,
    hello,
    poll,
    request,
    run_in_loop,
    workers,
)

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

FREE_PORT = ("127.0.0.1:0",)
# For what needs no waiting: nothing comes near it, and every timeout of the server is far above.
AT_ONCE = 5.0


def figures(report: DrainReport) -> tuple[int, int]:
    return report.completed, report.abandoned


def other_tasks() -> set[asyncio.Task[object]]:
    return asyncio.all_tasks() - {asyncio.current_task()}


async def open_loop_s_own_descriptors() -> None:
    """uvloop opens one for itself at the first listener of a loop, and keeps it as long as the loop."""
    listener = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)
    listener.close()
    await listener.wait_closed()


# Starting


def test_server_in_async_with_tells_where_it_listens_and_serves(loop_name: str) -> None:
    async def main() -> None:
        async with Server(hello, bind=FREE_PORT) as server:
            assert server.urls == (server.url,) == (f"http://127.0.0.1:{server.port}",)
            assert repr(server) == f"<Server {server.url}>"
            assert (await ask(server.port)).endswith(b"\r\n\r\nhello")

    run_in_loop(loop_name, main)


def test_server_on_several_addresses_tells_all_of_them_in_order(loop_name: str, tmp_path: Path) -> None:
    path = f"{tmp_path}/sock"

    async def main() -> None:
        async with Server(hello, bind=[f"unix:{path}", *FREE_PORT]) as server:
            assert server.url == f"unix:{path}"
            assert server.urls == (f"unix:{path}", f"http://127.0.0.1:{server.port}")
            for address in (path, server.port):
                assert (await ask(address)).endswith(b"hello")

    run_in_loop(loop_name, main)
    assert not Path(path).exists()


def test_server_before_its_start_listens_nowhere() -> None:
    server = Server(hello, bind=FREE_PORT)
    assert server.urls == ()
    assert repr(server) == "<Server not listening>"
    with pytest.raises(AttributeError, match="does not listen"):
        server.url  # noqa: B018
    with pytest.raises(AttributeError, match="no TCP port"):
        server.port  # noqa: B018
    with pytest.raises(RuntimeError, match="not been started"):
        server.parser_name  # noqa: B018


def test_server_on_unix_socket_alone_has_no_port(loop_name: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with Server(hello, uds=f"{tmp_path}/sock") as server:
            with pytest.raises(AttributeError, match="no TCP port"):
                server.port  # noqa: B018

    run_in_loop(loop_name, main)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"application": None}, TypeError),
        ({"application": hello, "threads": 0}, ConfigError),
        ({"application": hello, "bind": ["nowhere:at:all"]}, ConfigError),
        ({"application": hello, "thread": 4}, TypeError),
    ],
)
def test_server_with_bad_arguments_is_refused_before_anything_is_opened(
    arguments: dict[str, object], error: type[Exception]
) -> None:
    descriptors = descriptor_count()
    with pytest.raises(error):
        Server(**arguments)  # type: ignore[arg-type]
    assert descriptor_count() == descriptors


def test_server_with_config_and_options_is_refused() -> None:
    from aiowsgi import Config

    with pytest.raises(TypeError, match="either a config or options"):
        Server(hello, Config(), threads=2)


def test_start_with_address_in_use_raises_and_releases_everything(loop_name: str, tmp_path: Path) -> None:
    path = tmp_path / "sock"

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            server = Server(hello, bind=[f"unix:{path}", "127.0.0.1:0", f"127.0.0.1:{port}"])
            descriptors, threads = descriptor_count(), threading.active_count()
            with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"):
                await server.start()
            assert descriptor_count() == descriptors
            assert threading.active_count() <= threads
            assert not path.exists()
            assert not other_tasks()
        async with server:  # nothing has begun, so that it may be tried again
            assert (await ask(port)).endswith(b"hello")

    run_in_loop(loop_name, main)


def test_start_on_descriptor_that_is_no_socket_raises_and_releases_everything(loop_name: str, tmp_path: Path) -> None:
    async def main() -> None:
        with open(tmp_path / "file", "w") as file:
            server = Server(hello, bind=["127.0.0.1:0", f"fd://{file.fileno()}"])
            descriptors = descriptor_count()
            with pytest.raises(OSError, match=f"cannot listen on fd://{file.fileno()}: "):
                await server.start()
            assert descriptor_count() == descriptors

    run_in_loop(loop_name, main)


def test_start_without_the_parser_raises_and_releases_everything(
    loop_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "httptools", None)
    monkeypatch.delitem(sys.modules, "aiowsgi.http.llhttp", raising=False)
    path = tmp_path / "sock"

    async def main() -> None:
        server = Server(hello, bind=[f"unix:{path}", "127.0.0.1:0"], http="httptools")
        descriptors = descriptor_count()
        with pytest.raises(StartupError, match="http=httptools: "):
            await server.start()
        assert descriptor_count() == descriptors
        assert not path.exists()
        assert figures(await server.shutdown()) == (0, 0)

    run_in_loop(loop_name, main)


def test_start_of_a_started_server_is_refused_and_changes_nothing(loop_name: str) -> None:
    async def main() -> None:
        async with Server(hello, bind=FREE_PORT) as server:
            descriptors = descriptor_count()
            with pytest.raises(StartupError, match="only once"):
                await server.start()
            assert descriptor_count() == descriptors
            assert (await ask(server.port)).endswith(b"hello")
        with pytest.raises(StartupError, match="only once"):
            await server.start()

    run_in_loop(loop_name, main)


def test_start_of_a_server_that_is_shut_down_meanwhile_raises_and_releases_everything(
    loop_name: str, tmp_path: Path
) -> None:
    """It waits for a broker that stays silent; had it started then, nobody would answer the clients it accepted."""
    pytest.importorskip("redis")
    path = tmp_path / "sock"

    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            channel = Channel("news", broker=f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
            server = Server(
                hello, bind=[f"unix:{path}"], control=f"unix:{tmp_path}/c", ready_path="/ready", ready_broker=True
            )
            starting = asyncio.create_task(server.start())
            await eventually(path.exists)
            assert figures(await server.shutdown()) == (0, 0)
            with pytest.raises(StartupError, match="shut down while it started"):
                await starting
            channel.close()
        assert server.urls == ()
        assert not list(tmp_path.iterdir())
        assert not server.engine.broker_links
        await eventually(lambda: not other_tasks())

    run_in_loop(loop_name, main)


# Serving in task groups


def test_serve_in_anyio_task_group_listens_when_start_returns_and_ends_when_cancelled(loop_name: str) -> None:
    async def main() -> None:
        async with anyio.create_task_group() as group:
            server = await group.start(Server(hello, bind=FREE_PORT).serve)
            assert (await ask(server.port)).endswith(b"hello")
            group.cancel_scope.cancel()
        with pytest.raises(ConnectionRefusedError):
            await ask(server.port)
        assert not other_tasks()

    run_in_loop(loop_name, main)


def test_serve_in_anyio_task_group_ends_by_shutdown(loop_name: str) -> None:
    async def main() -> None:
        async with anyio.create_task_group() as group:
            server: Server = await group.start(Server(hello, bind=FREE_PORT).serve)
            await server.shutdown()

    run_in_loop(loop_name, main)


def test_cleanup_that_fails_is_raised_and_keeps_nobody_waiting_for_the_end() -> None:
    async def main() -> None:
        server = Server(hello, shared_sockets=[], statsd_host="127.0.0.1:9")
        await server.start()
        serving = asyncio.create_task(server.serve_until_shutdown())
        assert server._observation is not None
        assert server._observation.statsd is not None
        os.close(server._observation.statsd._socket.fileno())
        with pytest.raises(OSError, match="Bad file descriptor"):
            await server.shutdown()
        await eventually(serving.done)
        assert isinstance(serving.exception(), OSError)

    run_in_loop("asyncio", main)


def test_serve_that_cannot_listen_raises_from_the_group_s_start(loop_name: str) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            server = Server(hello, bind=[f"127.0.0.1:{taken.getsockname()[1]}"])
            with pytest.raises(ExceptionGroup) as caught:
                async with anyio.create_task_group() as group:
                    await group.start(server.serve)
            assert caught.group_contains(OSError, match="cannot listen")

    run_in_loop(loop_name, main)


def test_serve_in_asyncio_task_group_ends_by_shutdown(loop_name: str) -> None:
    """asyncio's groups have no structured start: the server is started first, then awaited in the group."""

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            server = Server(hello, bind=FREE_PORT)
            await server.start()
            group.create_task(server.serve_until_shutdown())
            assert (await ask(server.port)).endswith(b"hello")
            await server.shutdown()

    run_in_loop(loop_name, main)


def test_serve_in_asyncio_task_group_ends_when_a_sibling_fails(loop_name: str) -> None:
    class SiblingError(Exception):
        pass

    async def host(server: Server) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(server.serve())
            await eventually(lambda: server.urls)
            assert (await ask(server.port)).endswith(b"hello")
            raise SiblingError

    async def main() -> None:
        server = Server(hello, bind=FREE_PORT)
        with pytest.raises(ExceptionGroup) as caught:
            await host(server)
        assert caught.group_contains(SiblingError)
        with pytest.raises(ConnectionRefusedError):
            await ask(server.port)
        assert not other_tasks()

    run_in_loop(loop_name, main)


# Cancelling


def test_serve_that_is_cancelled_leaves_a_running_request_no_time_and_nothing_behind(loop_name: str) -> None:
    application = Gated()

    async def main() -> None:
        await open_loop_s_own_descriptors()
        descriptors = descriptor_count()
        async with anyio.create_task_group() as group:
            server: Server = await group.start(Server(application, bind=FREE_PORT, graceful_timeout=600).serve)
            async with client_of(server.port) as (reader, writer):
                writer.write(request())
                await eventually(lambda: application.running)
                began = time.monotonic()
                group.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    with contextlib.suppress(ConnectionError):
                        assert await reader.read() == b""
                    assert time.monotonic() - began < AT_ONCE
        assert figures(await server.shutdown()) == (0, 1)
        assert not other_tasks()
        assert descriptor_count() == descriptors

    try:
        run_in_loop(loop_name, main)
    finally:
        application.open()


async def cancel_once_it_drains(server: Server, cancel: Callable[[], object]) -> None:
    await eventually(lambda: server.urls and server.engine.draining)
    cancel()


@pytest.mark.parametrize("way", ["task", "asyncio timeout", "anyio scope"])
def test_async_with_that_is_cancelled_while_requests_end_leaves_them_no_time(loop_name: str, way: str) -> None:
    application = Gated()

    async def host(group: contextlib.AsyncExitStack, server: Server) -> None:
        async with server:
            _, writer = await group.enter_async_context(client_of(server.port))
            writer.write(request())
            await eventually(lambda: application.running)
        raise AssertionError("the server has not waited for its request")

    async def time_out(group: contextlib.AsyncExitStack, server: Server) -> None:
        async with asyncio.timeout(None) as timeout, asyncio.TaskGroup() as tasks:
            tasks.create_task(cancel_once_it_drains(server, lambda: timeout.reschedule(0)))
            await host(group, server)

    async def main() -> None:
        server = Server(application, bind=FREE_PORT, graceful_timeout=600)
        async with contextlib.AsyncExitStack() as group:
            if way == "task":
                task = asyncio.create_task(host(group, server))
                await cancel_once_it_drains(server, task.cancel)
                with pytest.raises(asyncio.CancelledError):
                    await task
            elif way == "asyncio timeout":
                with pytest.raises(TimeoutError):
                    await time_out(group, server)
            else:
                with anyio.CancelScope() as scope:
                    canceller = asyncio.create_task(cancel_once_it_drains(server, scope.cancel))
                    await host(group, server)
                await canceller
            assert not server.engine.connections
        assert not other_tasks()
        assert figures(await server.shutdown()) == (0, 1)

    try:
        run_in_loop(loop_name, main)
    finally:
        application.open()


def test_async_with_whose_block_fails_lets_requests_end_and_raises(loop_name: str) -> None:
    application = Gated()

    class HostError(Exception):
        pass

    async def host(answers: list[asyncio.Task[bytes]]) -> None:
        async with Server(application, bind=FREE_PORT) as server:
            answers.append(asyncio.create_task(ask(server.port)))
            await eventually(lambda: application.running)
            asyncio.get_running_loop().call_later(0.05, application.open)
            raise HostError

    async def main() -> None:
        answers: list[asyncio.Task[bytes]] = []
        with pytest.raises(HostError):
            await host(answers)
        assert (await answers[0]).endswith(b"let go")

    run_in_loop(loop_name, main)


def test_shutdown_whose_caller_is_cancelled_goes_on(loop_name: str) -> None:
    application = Gated()

    async def main() -> None:
        server = Server(application, bind=FREE_PORT)
        await server.start()
        answer = asyncio.create_task(ask(server.port))
        await eventually(lambda: application.running)
        with anyio.move_on_after(0.05) as scope:
            await server.shutdown()
        assert scope.cancelled_caught
        application.open()
        assert (await answer).endswith(b"let go")
        assert figures(await server.shutdown()) == (1, 0)

    run_in_loop(loop_name, main)


# Shutting down


def test_shutdown_before_start_reports_nothing_and_serve_then_ends_at_once(loop_name: str) -> None:
    async def main() -> None:
        server = Server(hello, bind=FREE_PORT)
        assert figures(await server.shutdown()) == figures(await server.shutdown(0)) == (0, 0)
        await server.serve()
        with pytest.raises(ConnectionRefusedError):
            await ask(server.port)

    run_in_loop(loop_name, main)


def test_shutdown_lets_requests_end_and_reports_them(loop_name: str) -> None:
    application = Gated()

    async def main() -> None:
        server = Server(application, bind=FREE_PORT, threads=2)
        await server.start()
        answers = [asyncio.create_task(ask(server.port)) for _ in range(3)]
        await eventually(lambda: application.running == 2 and server.stats().requests.waiting == 1)
        ending = asyncio.create_task(server.shutdown())
        await eventually(lambda: server.engine.draining)
        application.open()
        for answer in answers:
            assert (await answer).endswith(b"let go")
        report = await ending
        assert figures(report) == (3, 0)
        assert repr(report) == "<DrainReport completed=3 abandoned=0>"

    run_in_loop(loop_name, main)


def test_shutdown_is_idempotent_at_once_and_later(loop_name: str) -> None:
    application = Gated()

    async def main() -> None:
        server = Server(application, bind=FREE_PORT)
        await server.start()
        answer = asyncio.create_task(ask(server.port))
        await eventually(lambda: application.running)
        calls = [asyncio.create_task(server.shutdown()) for _ in range(3)]
        await eventually(lambda: server.engine.draining)
        application.open()
        reports = await asyncio.gather(*calls)
        assert {id(report) for report in [*reports, await server.shutdown(), await server.shutdown(0)]} == {
            id(reports[0])
        }
        assert figures(reports[0]) == (1, 0)
        assert await answer

    run_in_loop(loop_name, main)


@pytest.mark.parametrize("seconds", [0, 0.1])
def test_shutdown_is_bounded_and_reports_what_it_abandons(loop_name: str, seconds: float) -> None:
    application = Gated()

    async def main() -> None:
        server = Server(application, bind=FREE_PORT, threads=1)
        await server.start()
        async with client_of(server.port) as (_, running), client_of(server.port) as (_, waiting):
            running.write(request())
            waiting.write(request())
            await eventually(lambda: application.running and server.stats().requests.waiting)
            began = time.monotonic()
            report = await server.shutdown(seconds)
            assert seconds <= time.monotonic() - began < seconds + AT_ONCE
        assert figures(report) == (0, 2)
        assert not other_tasks()

    try:
        run_in_loop(loop_name, main)
    finally:
        application.open()
    poll(lambda: not application.running)


def test_shutdown_with_no_time_cuts_one_short_that_has_begun(loop_name: str) -> None:
    application = Gated()

    async def main() -> None:
        server = Server(application, bind=FREE_PORT, graceful_timeout=600)
        await server.start()
        async with client_of(server.port) as (_, writer):
            writer.write(request())
            await eventually(lambda: application.running)
            first = asyncio.create_task(server.shutdown())
            await eventually(lambda: server.engine.draining)
            assert await server.shutdown(0) is await first
        assert figures(await first) == (0, 1)

    try:
        run_in_loop(loop_name, main)
    finally:
        application.open()


@pytest.mark.parametrize("delay", [0, 600])
def test_shutdown_with_less_time_shortens_one_that_has_begun(loop_name: str, delay: float) -> None:
    application = Gated()

    async def main() -> None:
        server = Server(application, bind=FREE_PORT, graceful_timeout=500, drain_delay=delay)
        await server.start()
        async with client_of(server.port) as (_, writer):
            writer.write(request())
            await eventually(lambda: application.running)
            first = asyncio.create_task(server.shutdown(600))
            await eventually(lambda: server.engine.leaving if delay else server.engine.draining)
            began = time.monotonic()
            second = asyncio.create_task(server.shutdown(0.3))
            await asyncio.sleep(0)
            assert await server.shutdown(600) is await second is await first
            assert 0.2 < time.monotonic() - began < AT_ONCE
        assert figures(await first) == (0, 1)

    try:
        run_in_loop(loop_name, main)
    finally:
        application.open()


@pytest.mark.parametrize("first", [{}, {"graceful": 600}])
@pytest.mark.parametrize("second", [{"graceful": 0.3}, {"serve_on": False}, {"graceful": 600, "serve_on": False}])
def test_shutdown_in_a_hurry_ends_the_delay_of_one_that_has_begun(
    loop_name: str, first: dict[str, Any], second: dict[str, Any]
) -> None:
    """Even if ``graceful_timeout`` is no longer than the time that the hurried shutdown leaves."""

    async def main() -> None:
        server = Server(hello, bind=FREE_PORT, graceful_timeout=0.2, drain_delay=600)
        await server.start()
        port = server.port
        delayed = asyncio.create_task(server.shutdown(**first))
        await eventually(lambda: server.engine.leaving)
        assert (await ask(port)).endswith(b"hello")
        began = time.monotonic()
        assert figures(await server.shutdown(**second)) == figures(await delayed) == (0, 0)
        assert time.monotonic() - began < AT_ONCE

    run_in_loop(loop_name, main)


@pytest.mark.parametrize("hurry", [{"graceful": 0}, {"serve_on": False}, {"leave_backlog": True}])
@pytest.mark.parametrize("graceful_timeout", [0, 0.2])
def test_shutdown_in_a_hurry_does_without_the_delay(
    loop_name: str, hurry: dict[str, Any], graceful_timeout: float
) -> None:
    async def main() -> None:
        server = Server(hello, bind=FREE_PORT, graceful_timeout=graceful_timeout, drain_delay=600)
        await server.start()
        began = time.monotonic()
        assert figures(await server.shutdown(**hurry)) == (0, 0)
        assert time.monotonic() - began < AT_ONCE

    run_in_loop(loop_name, main)


def test_shutdown_with_less_time_than_usual_serves_on_all_the_same(loop_name: str) -> None:
    async def main() -> None:
        server = Server(hello, bind=FREE_PORT, drain_delay=600)
        await server.start()
        first = asyncio.create_task(server.shutdown(2))
        await eventually(lambda: server.engine.leaving)
        second = asyncio.create_task(server.shutdown(10_000))  # more than is left
        assert (await ask(server.port)).endswith(b"hello")
        assert await server.shutdown(0) is await first is await second

    run_in_loop(loop_name, main)


def test_shutdown_that_does_not_say_how_long_waits_for_one_that_has_begun(loop_name: str) -> None:
    application = Gated()

    async def main() -> None:
        server = Server(application, bind=FREE_PORT, graceful_timeout=0.1)
        await server.start()
        answer = asyncio.create_task(ask(server.port))
        await eventually(lambda: application.running)
        first = asyncio.create_task(server.shutdown(600))
        await eventually(lambda: server.engine.draining)
        asyncio.get_running_loop().call_later(0.3, application.open)
        assert figures(await server.shutdown()) == (1, 0)
        assert (await answer).endswith(b"let go")
        await first

    run_in_loop(loop_name, main)


def test_shutdown_with_less_time_has_parked_responses_take_their_turns_in_it(loop_name: str) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        async def events() -> AsyncIterator[bytes]:
            yield b"first"
            await asyncio.sleep(3600)

        start_response("200 OK", [])
        return park(environ, events())

    async def main() -> None:
        server = Server(application, bind=FREE_PORT, drain_rate=1)
        await server.start()
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(8):
                reader, writer = await stack.enter_async_context(client_of(server.port))
                writer.write(request())
                await reader.readuntil(b"first")
            first = asyncio.create_task(server.shutdown(600))
            await eventually(lambda: server.engine.completed_count == 1)  # one in a second
            began = time.monotonic()
            assert figures(await server.shutdown(3)) == (8, 0)
            assert time.monotonic() - began < 3
            await first

    run_in_loop(loop_name, main)


def test_shutdown_with_no_time_closes_connections_that_have_just_come(loop_name: str) -> None:
    async def main() -> None:
        server = Server(hello, bind=FREE_PORT)
        await server.start()
        # The kernel connects them; the loop has not run since.
        clients = [socket.create_connection(("127.0.0.1", server.port), PATIENCE) for _ in range(5)]
        assert figures(await server.shutdown(0)) == (0, 0)
        assert not server.engine.connections
        assert not other_tasks()
        for client in clients:
            with client, contextlib.suppress(ConnectionError):
                assert client.recv(1) == b""

    run_in_loop(loop_name, main)


def test_shutdown_serves_who_was_connected_before_it(loop_name: str) -> None:
    async def main() -> None:
        server = Server(hello, bind=FREE_PORT)
        await server.start()
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as client:
            client.sendall(request())
            assert figures(await server.shutdown()) == (1, 0)
            answer = b"".join(iter(lambda: client.recv(64 * 1024), b""))
        assert answer.endswith(b"hello")
        assert b"Connection: close\r\n" in answer

    run_in_loop(loop_name, main)


def test_shutdown_reports_a_response_that_its_client_has_not_taken_as_abandoned(loop_name: str) -> None:
    size = 32 * 1024 * 1024

    def large(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [bytes(size)]

    async def main() -> None:
        server = Server(large, bind=FREE_PORT)
        await server.start()
        async with client_of(server.port) as (_, before), client_of(server.port) as (_, since):
            before.write(request())
            await eventually(lambda: server.engine.queue_waits and not server.engine.exchanges)  # its thread is done
            since.write(request())
            assert figures(await server.shutdown(0.3)) == (0, 2)

    run_in_loop(loop_name, main)


def test_shutdown_reports_a_response_that_its_client_takes_meanwhile_as_completed(loop_name: str) -> None:
    size = 32 * 1024 * 1024

    def large(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", str(size))])
        return [bytes(size)]

    async def main() -> None:
        server = Server(large, bind=FREE_PORT)
        await server.start()
        async with client_of(server.port) as (reader, writer):
            writer.write(request())
            await eventually(lambda: server.engine.queue_waits and not server.engine.exchanges)
            ending = asyncio.create_task(server.shutdown())
            await eventually(lambda: server.engine.draining)
            answer = await reader.read()
            assert len(answer.partition(b"\r\n\r\n")[2]) == size
            assert figures(await ending) == (1, 0)

    run_in_loop(loop_name, main)


def test_shutdown_reports_an_upload_that_it_cuts_off_as_abandoned(loop_name: str) -> None:
    async def main() -> None:
        server = Server(hello, bind=FREE_PORT)
        await server.start()
        async with client_of(server.port) as (_, writer):
            writer.write(request("/", "Content-Length: 10", method="POST") + b"half ")
            await eventually(lambda: server.stats().connections.reading)
            assert figures(await server.shutdown(0.1)) == (0, 1)

    run_in_loop(loop_name, main)


@pytest.mark.parametrize("seconds", [0, None])
def test_shutdown_ends_a_parked_response_and_reports_it(loop_name: str, seconds: float | None) -> None:
    closed = threading.Event()

    async def events() -> AsyncIterator[bytes]:
        try:
            yield b"first"
            await asyncio.sleep(3600)
        finally:
            closed.set()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return park(environ, events())

    async def main() -> None:
        server = Server(application, bind=FREE_PORT)
        await server.start()
        async with client_of(server.port) as (reader, writer):
            writer.write(request())
            await reader.readuntil(b"first")
            report = await server.shutdown(seconds)
            # With no time at all it depends on the turns of the loop whether it could still be ended.
            assert figures(report) in ([(1, 0)] if seconds is None else [(0, 1), (1, 0)])
            await eventually(closed.is_set)
        await eventually(lambda: not other_tasks())

    run_in_loop(loop_name, main)


# Several of them


def test_several_servers_in_one_loop_end_one_by_one(loop_name: str) -> None:
    async def main() -> None:
        async with Server(hello, bind=FREE_PORT) as last:
            async with Server(hello, bind=FREE_PORT) as second, Server(hello, bind=FREE_PORT) as first:
                assert len({first.port, second.port, last.port}) == 3
                await first.shutdown()
                with pytest.raises(ConnectionRefusedError):
                    await ask(first.port)
                assert (await ask(second.port)).endswith(b"hello")
            assert (await ask(last.port)).endswith(b"hello")

    run_in_loop(loop_name, main)


def test_several_loops_in_one_process_serve_at_the_same_time() -> None:
    meeting = threading.Barrier(4)

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        meeting.wait(PATIENCE)  # one request of each server
        return hello(environ, start_response)

    async def main() -> None:
        async with Server(application, bind=FREE_PORT) as server:
            assert (await ask(server.port)).endswith(b"hello")

    failures: list[BaseException] = []

    def serve(loop_name: str) -> None:
        try:
            run_in_loop(loop_name, main)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=serve, args=[loop_name]) for loop_name in [*LOOPS, *LOOPS]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert not failures


# A listener of the program's own


def test_protocol_factory_serves_a_listener_of_the_program_s_own(loop_name: str) -> None:
    async def main() -> None:
        await open_loop_s_own_descriptors()
        descriptors = descriptor_count()
        server = Server(hello, bind=["127.0.0.1:1"])  # where it never listens
        sock = socket.create_server(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        listener = await asyncio.get_running_loop().create_server(server.protocol_factory, sock=sock)
        assert (await ask(port)).endswith(b"hello")
        assert server.urls == ()
        async with client_of(port) as (reader, writer):
            writer.write(request())
            assert (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200 OK\r\n")
            assert server.stats().connections.idle == 1
            listener.close()
            report = await server.shutdown()
            assert await reader.read() == b""
        assert figures(report) == (0, 0)
        await listener.wait_closed()
        await eventually(lambda: descriptor_count() == descriptors)
        assert not other_tasks()

    run_in_loop(loop_name, main)


def test_protocol_factory_of_a_server_that_listens_as_well_shares_its_threads(loop_name: str) -> None:
    async def main() -> None:
        async with Server(hello, bind=FREE_PORT) as server:
            loop = asyncio.get_running_loop()
            listener = await loop.create_server(server.protocol_factory, "127.0.0.1", 0)
            ports = [server.port, listener.sockets[0].getsockname()[1]]
            for port in ports:
                assert (await ask(port)).endswith(b"hello")
            assert server.stats().requests.done == 2
            listener.close()
            await listener.wait_closed()

    run_in_loop(loop_name, main)


# What is left


def test_a_hundred_starts_and_stops_leave_nothing_behind(loop_name: str) -> None:
    servers: weakref.WeakSet[Server] = weakref.WeakSet()

    async def cycle(kind: int) -> None:
        server = Server(hello, bind=FREE_PORT)
        servers.add(server)
        await server.start()
        if kind % 4 == 0:
            await server.shutdown()  # nobody came
            return
        async with client_of(server.port) as (reader, writer):
            if kind % 4 == 1:  # an idle connection
                writer.write(request())
                await reader.readuntil(b"hello")
            elif kind % 4 == 2:  # one that has just come, with a request
                writer.write(request("/", "Connection: close"))
                assert (await reader.read()).endswith(b"hello")
            await server.shutdown(0)

    async def main() -> None:
        for kind in range(4):
            await cycle(kind)
        descriptors = descriptor_count()
        for kind in range(100):
            await cycle(kind)
            assert not other_tasks()
        assert descriptor_count() == descriptors

    before = workers()
    descriptors = descriptor_count()
    run_in_loop(loop_name, main)
    assert descriptor_count() == descriptors
    poll(lambda: not workers() - before)
    gc.collect()
    assert not servers


def test_loop_that_is_closed_right_after_shutdown_leaves_nothing_open(loop_name: str) -> None:
    clients: list[socket.socket] = []

    async def main() -> None:
        server = Server(hello, bind=FREE_PORT)
        await server.start()
        clients.append(socket.create_connection(("127.0.0.1", server.port), PATIENCE))
        await eventually(lambda: server.engine.connections)
        clients.append(socket.create_connection(("127.0.0.1", server.port), PATIENCE))
        await server.shutdown(0)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop = LOOPS[loop_name]()
        loop.run_until_complete(main())
        loop.close()
        gc.collect()
    for client in clients:
        with client, contextlib.suppress(ConnectionError):
            assert client.recv(1) == b""
    assert [str(warning.message) for warning in caught if "127.0.0.1" in str(warning.message)] == []
    assert [str(warning.message) for warning in caught if "transport" in str(warning.message)] == []
