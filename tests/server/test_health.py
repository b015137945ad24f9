"""``--health-path`` and ``--ready-path``: answered when nothing else is."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aiowsgi import Server
from aiowsgi.config import Config
from aiowsgi.errors import ConfigError
from aiowsgi.server.health import Health
from aiowsgi.testing import MemoryServer
from tests.hosting import Gated, ask, client_of, eventually, hello, request, run_in_loop
from tests.process.server_process import server_process, wait_until

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

PATHS = {"health_path": "/alive", "ready_path": "/ready"}


class HealthServer(MemoryServer):
    def __init__(self, application: Any = hello, **options: Any) -> None:
        super().__init__(application, **PATHS | options)
        self.engine.responder = Health(self.engine)

    def get(self, path: str, *fields: str, method: str = "GET") -> tuple[int, dict[str, Any]]:
        """Ask over a connection of its own, without letting a thread move."""
        client = self.connect()
        client.send(request(path, *fields, method=method))
        self.loop.run_ready()
        head, _, content = client.read().partition(b"\r\n\r\n")
        assert b"\r\nContent-Type: application/json\r\n" in head
        return int(head.split(b" ")[1]), json.loads(content)


def waits(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    environ["aiowsgi.disconnected"].wait(100)
    return hello(environ, start_response)


@pytest.mark.parametrize("path", ["/alive", "/ready", "/ready?verbose"])
def test_server_that_is_well_says_so(path: str) -> None:
    with HealthServer() as server:
        assert server.get(path) == (200, {"status": "ok", "reasons": []})


@pytest.mark.parametrize("path", ["/alive", "/"])
def test_answer_before_content_that_is_malformed_is_the_only_one(path: str) -> None:
    with HealthServer(stream_body=True, queue_size=1) as server:
        server.connect().send(request())
        server.loop.run_ready()  # and no thread takes it
        client = server.connect()
        client.send(request(path, "Transfer-Encoding: chunked") + b"zz\r\n")
        server.loop.run_ready()
        answer = client.read()
        assert answer.count(b"HTTP/1.1 ") == 1
        assert answer.startswith(b"HTTP/1.1 200 " if path == "/alive" else b"HTTP/1.1 503 ")


def test_server_that_leaves_is_alive_and_not_ready() -> None:
    for state, reason in (("leaving", "draining"), ("draining", "draining")):
        with HealthServer() as server:
            setattr(server.engine, state, True)
            assert server.get("/alive") == (200, {"status": "ok", "reasons": [reason]})
            assert server.get("/ready") == (503, {"status": "unavailable", "reasons": [reason]})


def test_server_whose_queue_is_full_is_alive_and_not_ready() -> None:
    with HealthServer(queue_size=2) as server:
        for _ in range(2):
            server.connect().send(request())
        server.loop.run_ready()
        assert server.get("/alive") == (200, {"status": "ok", "reasons": ["queue_full"]})
        assert server.get("/ready") == (503, {"status": "unavailable", "reasons": ["queue_full"]})
        server.settle()
        assert server.get("/ready") == (200, {"status": "ok", "reasons": []})


def test_server_whose_threads_are_stuck_is_not_alive() -> None:
    with HealthServer(waits, threads=2, queue_timeout=10) as server:
        for _ in range(2):
            server.connect().send(request())
        server.advance(11)
        assert server.get("/alive")[0] == 200  # nobody waits in vain
        server.connect().send(request())
        server.loop.run_ready()
        assert server.get("/alive") == (503, {"status": "unavailable", "reasons": ["threads_stuck"]})
        assert server.get("/ready") == (503, {"status": "unavailable", "reasons": ["threads_stuck"]})
        server.advance(100)
        assert server.get("/alive") == (200, {"status": "ok", "reasons": []})


def test_thread_that_waits_for_its_client_is_not_stuck() -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        for _ in range(100):
            yield bytes(100_000)

    with HealthServer(application, threads=1, queue_timeout=10, write_timeout=1000) as server:
        server.connect().send(request())
        server.advance(11)
        server.connect().send(request())
        server.loop.run_ready()
        assert server.pool.stats().stalled == 1
        assert server.get("/alive")[0] == 200


@pytest.mark.parametrize("stream_body", [False, True])
def test_head_and_content_and_pipelining_are_as_for_any_request(stream_body: bool) -> None:
    with HealthServer(stream_body=stream_body) as server:
        client = server.connect()
        client.send(request("/ready", method="HEAD") + request("/ready") + request("/") + request("/alive"))
        server.settle()
        data = client.read()
        assert len(re.findall(rb"HTTP/1\.1 200 OK\r\n", data)) == 4
        assert len(re.findall(rb'"status": "ok"', data)) == 2
        assert b"hello" in data
        assert data.index(b"hello") < data.rindex(b'"status"')
        client.send(request("/ready", "Content-Length: 5"))
        server.settle()
        if not stream_body:
            client.send(b"12345")
            server.settle()
        head, _, content = client.read().partition(b"\r\n\r\n")
        assert b'"status": "ok"' in content
        assert (b"\r\nConnection: close" in head) is stream_body


def test_thousands_of_pipelined_questions_are_answered() -> None:
    with HealthServer(kernel_size=10_000_000) as server:
        client = server.connect()
        client.send(request("/alive") * 3000)
        server.settle()
        assert client.read().count(b"HTTP/1.1 200 OK") == 3000


def test_client_that_asks_and_ends_or_goes_is_no_trouble() -> None:
    with HealthServer() as server:
        client = server.connect()
        client.send(request("/ready"))
        client.end()
        server.settle()
        assert b"200 OK" in client.read()
        client = server.connect()
        client.send(request("/ready") * 3)
        server.loop.run_turn()
        client.reset()
        server.settle()
        server.advance(10)
        assert server.at_rest


def test_connection_of_http_1_0_is_kept_where_asked_for() -> None:
    with HealthServer() as server:
        client = server.connect()
        client.send(b"GET /ready HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        server.settle()
        assert b"\r\nConnection: keep-alive\r\n" in client.read()
        client.send(b"GET /ready HTTP/1.0\r\n\r\n")
        server.settle()
        assert b"\r\nConnection: close\r\n" in client.read()


def test_other_requests_are_the_applications() -> None:
    seen: list[str] = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        seen.append(environ["REQUEST_METHOD"] + environ["PATH_INFO"])
        return hello(environ, start_response)

    with HealthServer(application) as server:
        client = server.connect()
        client.send(request("/ready", method="POST") + request("/ready/") + request("/al%69ve"))
        server.settle()
    assert seen == ["POST/ready", "GET/ready/", "GET/alive"]


@pytest.mark.parametrize("path", ["", "ready", "/a?b", "/a#b", "/a b", "/é"])
def test_path_that_no_request_has_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="must start with a slash"):
        Config(ready_path=path)


def test_server_without_paths_has_none() -> None:
    async def main() -> None:
        async with Server(hello, bind=["127.0.0.1:0"]) as server:
            assert (await ask(server.port, "/ready")).endswith(b"hello")

    run_in_loop("asyncio", main)


def test_answers_come_though_queue_and_threads_are_full(loop_name: str) -> None:
    application = Gated()

    async def main() -> None:
        options: dict[str, Any] = {"threads": 1, "queue_size": 1, **PATHS}
        async with Server(application, bind=["127.0.0.1:0"], **options) as server:
            first = asyncio.create_task(ask(server.port))
            await eventually(lambda: application.running)
            second = asyncio.create_task(ask(server.port))
            await eventually(lambda: server.stats().requests.waiting == 1)
            assert b" 503 " in await ask(server.port)
            assert b"200 OK" in await ask(server.port, "/alive")
            assert b'["queue_full"]' in await ask(server.port, "/ready")
            application.open()
            await asyncio.gather(first, second)
            assert b"200 OK" in await ask(server.port, "/ready")

    run_in_loop(loop_name, main)


def test_shutdown_is_announced_before_the_listener_closes(loop_name: str) -> None:
    async def main() -> None:
        server = Server(hello, bind=["127.0.0.1:0"], drain_delay=1000, **PATHS)
        await server.start()
        port = server.port
        ending = asyncio.create_task(server.shutdown())
        await eventually(lambda: server.engine.leaving)
        async with client_of(port) as (reader, writer):  # new connections are taken, and kept
            for _ in range(2):
                writer.write(request("/ready"))
                assert b" 503 " in await reader.readuntil(b"\r\n\r\n")
                assert await reader.readuntil(b"\n") == b'{"status": "unavailable", "reasons": ["draining"]}\n'
                writer.write(request())
                assert (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200 OK")
        await server.shutdown(0)  # what a second signal does
        await ending
        with pytest.raises(ConnectionRefusedError):
            await ask(port)

    run_in_loop(loop_name, main)


def test_sigterm_turns_ready_off_and_serves_on_and_then_drains(tmp_path: Path) -> None:
    arguments = ("tests.hosting:hello", "-b", "127.0.0.1:0", "--ready-path", "/ready", "--drain-delay", "3s")
    with server_process(tmp_path, *arguments) as server:
        with server.connect() as client:
            assert client.get("/ready").status_code == 200
        server.signal(signal.SIGTERM)
        begun = time.monotonic()

        def not_ready() -> bool:
            with server.connect() as client:
                return client.get("/ready").status_code == 503

        wait_until(not_ready, "503")
        with server.connect() as client:
            assert client.get("/").content == b"hello"
        assert server.wait() == 0
        assert time.monotonic() - begun >= 3
