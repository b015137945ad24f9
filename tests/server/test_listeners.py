"""Accepting: floods, failures that last, and connections that are gone before they begin."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from aiowsgi.server import Server
from tests.conftest import ServerThread
from tests.hosting import ask, eventually, run_in_loop
from tests.process.server_process import wait_until

Serve = Callable[..., ServerThread]


def hello(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    return [environ["REMOTE_ADDR"].encode()]


def test_flood_of_connections_that_vanish_before_they_are_accepted_harms_nobody(serve: Serve) -> None:
    server = serve(hello)
    for _ in range(300):
        client = server.connect()
        client.reset()
    with server.connect() as client:
        assert client.get("/").status_code == 200
    wait_until(lambda: not server.server.engine.connections, "the connections' end")
    assert not server.server.engine.arriving


def test_socket_that_somebody_who_shares_it_has_shut_down_is_one_line_in_the_log(
    loop_name: str, error_log: pytest.LogCaptureFixture
) -> None:
    """The kernel then says that there is somebody, and that accept() is no more: EINVAL."""
    errors: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
        with socket.create_server(("127.0.0.1", 0)) as shared:
            async with Server(hello, bind=[f"fd://{shared.fileno()}", "127.0.0.1:0"]) as server:
                shared.shutdown(socket.SHUT_RD)
                await eventually(lambda: error_log.records or errors)
                for _ in range(20):  # turns of a loop that would try again in each
                    await asyncio.sleep(0.001)
                other = int(server.urls[1].rpartition(":")[2])
                assert (await ask(other)).endswith(b"127.0.0.1")

    run_in_loop(loop_name, main)
    assert errors == []
    (record,) = error_log.records
    assert "cannot accept connections on http://127.0.0.1:" in record.getMessage()


def test_socket_that_has_been_shut_down_does_not_keep_its_server_from_ending(
    loop_name: str, error_log: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as shared:
            server = Server(hello, bind=[f"fd://{shared.fileno()}"])
            await server.start()
            shared.shutdown(socket.SHUT_RD)
            report = await server.shutdown()  # before the loop has had a turn to see it
            assert (report.completed, report.abandoned) == (0, 0)

    run_in_loop(loop_name, main)
    assert len(error_log.records) == 1


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENETDOWN, errno.ECONNABORTED])
def test_error_of_a_connection_that_lasts_is_one_line_in_the_log_and_keeps_no_server_from_ending(
    loop_name: str, code: int, error_log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A security module may deny accept(2): the kernel goes on to say that there is somebody."""
    call_count = 0

    def denied(sock: socket.socket) -> None:
        nonlocal call_count
        call_count += 1
        if call_count > 1000:
            raise OSError(errno.EINVAL, "called without an end")
        raise OSError(code, os.strerror(code))

    async def main() -> None:
        server = Server(hello, bind=["127.0.0.1:0"])
        await server.start()
        with socket.create_connection(("127.0.0.1", server.port), 10):
            await eventually(lambda: error_log.records)
            report = await server.shutdown()
            assert (report.completed, report.abandoned) == (0, 0)

    monkeypatch.setattr(socket.socket, "_accept", denied, raising=False)
    run_in_loop(loop_name, main)
    (record,) = error_log.records
    assert record.getMessage().endswith(f", pausing: {os.strerror(code)}")


def test_connections_lost_before_those_that_are_there_do_not_hold_these_up(
    loop_name: str, error_log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BSD tells of each that has gone: ECONNABORTED."""
    accept, lost = socket.socket._accept, 60  # type: ignore[attr-defined]  # typeshed leaves it out

    def abort_some(sock: socket.socket) -> Any:
        nonlocal lost
        if lost:
            lost -= 1
            raise ConnectionAbortedError(errno.ECONNABORTED, os.strerror(errno.ECONNABORTED))
        return accept(sock)

    async def main() -> None:
        async with Server(hello, bind=["127.0.0.1:0"]) as server:
            assert (await ask(server.port)).endswith(b"127.0.0.1")

    monkeypatch.setattr(socket.socket, "_accept", abort_some, raising=False)
    run_in_loop(loop_name, main)
    assert error_log.records == []


@pytest.mark.parametrize("turns", range(4))
def test_connection_whose_task_is_cancelled_before_its_protocol_has_it_is_closed_and_forgotten(
    loop_name: str, turns: int
) -> None:
    """By a program that cancels all tasks; those that have not begun run none of their code."""

    async def main() -> None:
        others = asyncio.all_tasks()
        server = Server(hello, bind=["127.0.0.1:0"])
        await server.start()
        engine = server.engine
        with socket.create_connection(("127.0.0.1", server.port), 10) as client:
            client.setblocking(False)
            while not engine.arriving:
                await asyncio.sleep(0)
            for _ in range(turns):
                await asyncio.sleep(0)
            handovers = asyncio.all_tasks() - others
            assert handovers or turns
            for handover in handovers:
                handover.cancel()
            if handovers:
                assert await asyncio.get_running_loop().sock_recv(client, 1) == b""
            await eventually(lambda: not engine.arriving)
            assert len(engine.connections) == (0 if handovers else 1)
            began = time.monotonic()
            await server.shutdown(5)
            assert time.monotonic() - began < 3

    run_in_loop(loop_name, main)


class HandsNothingOver(asyncio.SelectorEventLoop):
    """Never makes a transport of what was accepted."""

    async def connect_accepted_socket(self, *args: Any, **options: Any) -> Any:
        await asyncio.get_running_loop().create_future()


class FailsToHandOver(asyncio.SelectorEventLoop):
    async def connect_accepted_socket(self, *args: Any, **options: Any) -> Any:
        raise ValueError("no transport for this one")


@pytest.mark.parametrize("make_loop", [HandsNothingOver, FailsToHandOver])
def test_connection_that_never_comes_to_its_protocol_does_not_keep_its_server_from_ending(
    make_loop: Callable[[], asyncio.AbstractEventLoop], error_log: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        server = Server(hello, bind=["127.0.0.1:0"])
        await server.start()
        with socket.create_connection(("127.0.0.1", server.port), 10) as client:
            await server.shutdown(5)
            assert client.recv(1) == b""
        assert not server.engine.arriving

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(asyncio.wait_for(main(), 10))
    assert ("cannot serve a connection" in error_log.text) == (make_loop is FailsToHandOver)
