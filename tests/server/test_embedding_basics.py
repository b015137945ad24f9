"""A server as a guest in a program's event loop: what it leaves alone, and what it leaves behind."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import anyio
import pytest

from aiowsgi import ConfigError, StartupError
from aiowsgi.config import Config
from aiowsgi.server import Server
from tests.conftest import LOOPS
from tests.process.server_process import wait_until
from tests.raw import RawClient

GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


def hello(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]


def named(name: str) -> Callable[..., Iterable[bytes]]:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [name.encode()]

    return application


def connect(server: Server) -> RawClient:
    return RawClient(socket.create_connection(("127.0.0.1", server.port), 10))


async def get(server: Server) -> bytes:
    """Request ``/`` in a thread, so that the loop goes on serving."""

    def request() -> bytes:
        with connect(server) as client:
            return client.get("/").content

    return await asyncio.to_thread(request)


def run(loop_name: str, coroutine: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=LOOPS[loop_name]) as runner:
        return runner.run(coroutine)


# Life.


def test_server_serves_inside_its_context_and_not_after(loop_name: str) -> None:
    async def main() -> None:
        async with Server(hello, bind=["127.0.0.1:0"]) as server:
            assert server.urls == (f"http://127.0.0.1:{server.port}",)
            assert await get(server) == b"hello"
        with pytest.raises(ConnectionRefusedError):
            connect(server)

    run(loop_name, main())


def test_serve_tells_its_task_group_when_it_listens(loop_name: str) -> None:
    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            server = await tasks.start(Server(hello, bind=["127.0.0.1:0"]).serve)
            assert await get(server) == b"hello"
            await server.shutdown()
        # The group has ended: so has serve().

    run(loop_name, main())


def test_serve_ends_with_its_cancelled_task_group(loop_name: str) -> None:
    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            server = await tasks.start(Server(hello, bind=["127.0.0.1:0"]).serve)
            assert await get(server) == b"hello"
            tasks.cancel_scope.cancel()
        with pytest.raises(ConnectionRefusedError):
            connect(server)

    run(loop_name, main())


def test_serve_that_cannot_listen_raises_in_its_task_group(loop_name: str) -> None:
    async def main() -> None:
        with socket.socket() as busy:
            busy.bind(("127.0.0.1", 0))
            busy.listen()
            port = busy.getsockname()[1]
            with pytest.raises(BaseExceptionGroup) as caught:
                async with anyio.create_task_group() as tasks:
                    await tasks.start(Server(hello, bind=[f"127.0.0.1:{port}"]).serve)
        assert caught.group_contains(OSError, match=str(port))

    run(loop_name, main())


def test_server_can_be_started_only_once(loop_name: str) -> None:
    async def main() -> None:
        async with Server(hello, bind=["127.0.0.1:0"]) as server:
            with pytest.raises(StartupError, match="once"):
                await server.start()
            assert await get(server) == b"hello"
        with pytest.raises(StartupError, match="once"):
            await server.start()

    run(loop_name, main())


def test_options_that_are_wrong_are_refused_before_anything_is_opened() -> None:
    with pytest.raises(ConfigError, match="threads=0"):
        Server(hello, threads=0)
    with pytest.raises(TypeError, match="not both"):
        Server(hello, Config(), threads=2)
    with pytest.raises(TypeError, match="callable"):
        Server(None)  # type: ignore[arg-type]  # that is the point


def test_fifty_cycles_of_start_and_stop_leave_no_thread_descriptor_or_task(loop_name: str) -> None:
    async def cycle(number: int) -> None:
        server = Server(hello, bind=["127.0.0.1:0"])
        await server.start()
        with connect(server) as client:
            client.send(GET)
            while not server.engine.completed_count:
                await asyncio.sleep(0)
            assert client.receive().content == b"hello"
            if number % 2:  # the client ends first, or the server
                client.close()
            await server.shutdown(0 if number % 3 else 1)

    async def main() -> None:
        await cycle(0)  # loops open what they need when they need it
        descriptor_count = len(os.listdir("/dev/fd"))
        tasks = asyncio.all_tasks()
        for number in range(50):
            await cycle(number)
        assert asyncio.all_tasks() == tasks
        deadline = time.monotonic() + 10
        while len(os.listdir("/dev/fd")) > descriptor_count:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)

    threads = set(threading.enumerate())
    run(loop_name, main())
    wait_until(lambda: not set(threading.enumerate()) - threads, "the end of the threads")


def test_loop_can_be_closed_right_after_the_shutdown(loop_name: str) -> None:
    """Nothing is left that would warn of an unclosed transport or socket."""
    clients: list[RawClient] = []

    async def main(stack: ExitStack) -> None:
        server = Server(hello, bind=["127.0.0.1:0"])
        await server.start()
        for _ in range(3):
            clients.append(stack.enter_context(connect(server)))
        clients[0].send(b"GET / HT")
        clients[1].send(GET)
        while not server.engine.completed_count:
            await asyncio.sleep(0)
        await server.shutdown(0)

    loop = LOOPS[loop_name]()
    with ExitStack() as stack:
        try:
            loop.run_until_complete(main(stack))
        finally:
            loop.close()
        gc.collect()
        # All of them have come to their end; a reset is one.
        assert clients[1].receive().content == b"hello"


# Company.


def test_several_servers_share_one_loop_and_end_on_their_own(loop_name: str) -> None:
    async def main() -> None:
        async with (
            Server(named("one"), bind=["127.0.0.1:0"]) as one,
            Server(named("two"), bind=["127.0.0.1:0"], threads=1) as two,
        ):
            assert await get(one) == b"one"
            assert await get(two) == b"two"
            await one.shutdown()
            assert await get(two) == b"two"
            with pytest.raises(ConnectionRefusedError):
                connect(one)

    run(loop_name, main())


def test_host_program_goes_on_while_applications_block(loop_name: str) -> None:
    """Eight threads wait, others sleep, and the loop's own heart beats on."""

    def slow(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        time.sleep(0.3)
        start_response("200 OK", [])
        return [b"slept"]

    async def main() -> float:
        longest = 0.0
        async with Server(slow, bind=["127.0.0.1:0"], threads=8) as server:
            requests = [asyncio.create_task(get(server)) for _ in range(8)]
            beats = 0
            while not all(request.done() for request in requests):
                begun = time.monotonic()
                await asyncio.sleep(0.005)
                longest = max(longest, time.monotonic() - begun)
                beats += 1
            assert [request.result() for request in requests] == [b"slept"] * 8
            assert beats > 5
        return longest

    # A loop that waited for one of them would take 0.3 s for a beat.
    assert run(loop_name, main()) < 0.2


# Manners.


def test_server_touches_neither_signals_nor_logging_nor_environment_nor_policy(loop_name: str) -> None:
    def look() -> list[object]:
        loggers = [logging.getLogger(name) for name in (None, "aiowsgi", "aiowsgi.error", "aiowsgi.access", "asyncio")]
        return [
            {number: signal.getsignal(number) for number in signal.valid_signals()},
            [(logger.level, logger.handlers[:], logger.propagate, logger.disabled) for logger in loggers],
            dict(os.environ),
            getattr(asyncio.events, "_event_loop_policy", None),
            os.getcwd(),
        ]

    async def main() -> None:
        before = look()
        server = Server(hello, bind=["127.0.0.1:0"])
        assert look() == before
        async with server:
            assert look() == before
            assert await get(server) == b"hello"
            assert look() == before
        assert look() == before

    run(loop_name, main())


def test_server_leaves_the_executor_of_the_loop_alone(loop_name: str) -> None:
    """Its one thread is busy with something of the program's own; requests and uploads are served all the same."""
    release = threading.Event()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        busy = loop.run_in_executor(None, release.wait, 10)
        answers: list[bytes] = []

        def upload(server: Server) -> None:
            with connect(server) as client:
                answers.append(client.post(b"x" * 5000).content)

        async with Server(hello, bind=["127.0.0.1:0"], request_buffer=100) as server:
            client = threading.Thread(target=upload, args=[server])
            client.start()
            async with asyncio.timeout(10):
                while not answers:
                    await asyncio.sleep(0.01)
            client.join()
        assert answers == [b"hello"]
        release.set()
        await busy

    async def with_one_thread() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        await main()

    run(loop_name, with_one_thread())


def test_application_that_raises_system_exit_ends_neither_thread_nor_program(
    loop_name: str, error_log: pytest.LogCaptureFixture
) -> None:
    def leave(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        raise SystemExit(3)

    async def main() -> None:
        async with Server(leave, bind=["127.0.0.1:0"], threads=1) as server:
            for _ in range(2):
                assert (await get(server)).startswith(b"500 ")

    run(loop_name, main())
    assert len(error_log.records) == 2


def test_server_in_a_thread_that_is_not_the_main_one_serves(loop_name: str) -> None:
    answers: list[bytes] = []

    async def main() -> None:
        async with Server(hello, bind=["127.0.0.1:0"]) as server:
            answers.append(await get(server))

    thread = threading.Thread(target=run, args=[loop_name, main()])
    thread.start()
    thread.join(20)
    assert not thread.is_alive()
    assert answers == [b"hello"]
