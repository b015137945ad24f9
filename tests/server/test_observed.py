"""How each request ended, and where its time went, on a clock that the test moves."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aiowsgi import park
from aiowsgi.server.observed import UNKNOWN_HEAD, ObservedExchange
from tests.conftest import ServerThread
from tests.hosting import PATIENCE, hello, poll, request
from tests.server.observing import ObservedServer

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment


def only(server: ObservedServer) -> ObservedExchange:
    assert len(server.ended) == 1, server.ended
    return server.ended[0]


def times(exchange: ObservedExchange) -> tuple[float, float, float]:
    return exchange.queue_time, exchange.thread_time, exchange.write_time


def waits(seconds: float) -> Any:
    """Return an application that takes so long, and then answers five bytes."""

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["aiowsgi.disconnected"].wait(seconds)
        start_response("200 OK", [])
        return [b"12345"]

    return application


def streams(*blocks: bytes) -> Any:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield from blocks

    return application


def fails(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    raise ValueError("no")


def fails_midway(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [])
    yield b"first"
    raise ValueError("no")


def test_answer_that_was_taken_is_complete() -> None:
    with ObservedServer(hello) as server:
        server.connect().send(request())
        server.settle()
        exchange = only(server)
        assert (exchange.outcome, exchange.status_code, exchange.sent_size) == ("complete", 200, 5)
        assert exchange.response is not None
        assert exchange.environ is not None
        assert exchange.ended_at >= exchange.arrived_at > 0


def test_times_are_those_of_queue_thread_and_client() -> None:
    with ObservedServer(waits(2.0)) as server:
        client = server.connect()
        client.send(request())
        while server.loop.has_ready:
            server.loop.run_turn()
        server.loop.advance(1.0)  # no thread takes it meanwhile
        server.advance(2.0)
        assert times(only(server)) == (1.0, 2.0, 0.0)
        assert only(server).ended_at - only(server).arrived_at == 3.0


def test_time_begins_at_the_head_though_content_is_still_to_come() -> None:
    with ObservedServer(hello) as server:
        client = server.connect()
        client.send(request("/", "Content-Length: 5", method="POST"))
        server.advance(3.0)
        client.send(b"12345")
        server.settle()
        assert only(server).ended_at - only(server).arrived_at == 3.0
        assert times(only(server)) == (0.0, 0.0, 0.0)


def test_slow_client_is_write_time_and_all_was_sent() -> None:
    with ObservedServer(streams(bytes(600_000)), kernel_size=100_000) as server:
        client = server.connect()
        client.send(request())
        server.settle()
        for _ in range(10):
            assert server.ended == [] or only(server).write_time >= 4.0
            server.advance(1.0)
            client.read()
        assert (only(server).outcome, only(server).sent_size) == ("complete", 600_000)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_size_is_that_of_the_content_without_its_framing(method: str) -> None:
    with ObservedServer(streams(b"12", b"345")) as server:
        server.connect().send(request(method=method))
        server.settle()
        assert only(server).sent_size == (5 if method == "GET" else 0)


def sends_file(path: Path) -> Any:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](path.open("rb"))
        return wrapped

    return application


def test_size_of_a_file_is_its_own(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(1_000_000))
    with ObservedServer(sends_file(path), kernel_size=2_000_000) as server:
        server.connect().send(request())
        server.settle()
        assert (only(server).outcome, only(server).sent_size) == ("complete", 1_000_000)


def test_size_of_a_file_whose_client_goes_is_what_was_sent(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(5_000_000))
    with ObservedServer(sends_file(path), kernel_size=100_000) as server:
        client = server.connect()
        client.send(request())
        server.settle()
        client.read()
        server.settle()
        client.reset()
        server.settle()
        assert only(server).outcome == "disconnected"
        assert 100_000 <= only(server).sent_size < 1_000_000


def test_size_of_a_file_whose_client_goes_before_its_beginning_is_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(5_000_000))
    with ObservedServer(sends_file(path), kernel_size=100_000) as server:
        client = server.connect()
        client.send(request())
        while not server.pool.waiting_count:
            assert server.loop.has_ready
            server.loop.run_turn()
        client.reset()
        server.loop.run_turn()  # the loss is on its way, and what the thread now does comes behind it
        assert server.engine.connections
        assert server.pool.step()
        server.settle()
        assert (only(server).outcome, only(server).status_code, only(server).sent_size) == ("disconnected", 200, 0)


def test_size_of_a_file_that_becomes_shorter_is_what_was_sent(
    tmp_path: Path, error_log: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(5_000_000))
    with ObservedServer(sends_file(path), kernel_size=100_000) as server:
        client = server.connect()
        client.send(request())
        server.settle()
        os.truncate(path, 2_000_000)
        while not server.ended:
            client.read()
            server.settle()
        assert (only(server).outcome, only(server).sent_size) == ("truncated", 2_000_000)


@pytest.mark.skipif(not hasattr(os, "sendfile"), reason="needs sendfile")
def test_size_of_a_file_past_the_transport_is_what_was_sent(serve: Callable[..., ServerThread], tmp_path: Path) -> None:
    path, log = tmp_path / "file", tmp_path / "log"
    path.touch()
    os.truncate(path, 50_000_000)
    server = serve(sends_file(path), access_log=True, access_logfile=str(log), access_logformat="%(outcome)s %(B)s")
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as sock:
        sock.sendall(request())
        received_size = 0
        while received_size < 5_000_000:  # more than one call sends
            received_size += len(sock.recv(1_000_000))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    poll(lambda: log.exists() and log.read_text())
    outcome, sent_size = log.read_text().split()
    assert outcome == "disconnected"
    assert 4_000_000 < int(sent_size) < 50_000_000


def test_parked_answer_ends_with_what_was_parked() -> None:
    async def events() -> AsyncIterator[bytes]:
        yield b"12345"
        yield b"678"

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return park(environ, events())

    with ObservedServer(application) as server:
        server.connect().send(request())
        server.settle()
        assert (only(server).outcome, only(server).sent_size) == ("complete", 8)


def test_application_that_fails_is_an_error(error_log: pytest.LogCaptureFixture) -> None:
    with ObservedServer(fails) as server:
        client = server.connect()
        client.send(request())
        server.settle()
        exchange = only(server)
        assert (exchange.outcome, exchange.status_code) == ("error", 500)
        assert exchange.sent_size == len(client.read().partition(b"\r\n\r\n")[2])


def test_application_that_fails_midway_truncates(error_log: pytest.LogCaptureFixture) -> None:
    with ObservedServer(fails_midway) as server:
        server.connect().send(request())
        server.settle()
        assert (only(server).outcome, only(server).status_code, only(server).sent_size) == ("truncated", 200, 5)


@pytest.mark.parametrize(
    ("data", "status_code", "request_line"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400, "GET / HTTP/1.1"),
        (b"nonsense\r\n\r\n", 400, "nonsense"),
        (b"\r\nGET /\x00 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "GET /\x00 HTTP/1.1"),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n", 414, "GET /" + "a" * 1019),
        (b"GET / HTTP/1.1\r\nHost: a\r\nA: " + b"a" * 9000 + b"\r\n\r\n", 431, "GET / HTTP/1.1"),
    ],
)
def test_request_that_is_refused_unread_ends_with_its_reason(data: bytes, status_code: int, request_line: str) -> None:
    with ObservedServer(hello) as server:
        server.connect().send(data)
        server.settle()
        exchange = only(server)
        assert exchange.head is UNKNOWN_HEAD
        assert (exchange.outcome, exchange.status_code) == ("refused", status_code)
        assert exchange.refusal is not None
        assert exchange.refusal.request_line == request_line
        assert exchange.sent_size > 0


def test_head_that_takes_too_long_is_refused() -> None:
    with ObservedServer(hello, header_timeout=5) as server:
        server.connect().send(b"GET / HT")
        server.advance(6)
        assert (only(server).outcome, only(server).status_code) == ("refused", 408)


def test_content_that_takes_too_long_is_refused_with_its_time() -> None:
    with ObservedServer(hello, body_timeout=5) as server:
        server.connect().send(request("/up", "Content-Length: 5", method="POST"))
        server.advance(6)
        exchange = only(server)
        assert (exchange.outcome, exchange.status_code, exchange.head.target) == ("refused", 408, "/up")
        assert exchange.ended_at - exchange.arrived_at >= 5


def test_connection_that_never_said_anything_is_no_request() -> None:
    with ObservedServer(hello, header_timeout=5, keep_alive=5) as server:
        server.connect()
        server.advance(60)
        server.connect().close()
        server.settle()
        assert server.ended == []


def test_request_that_finds_no_room_is_refused() -> None:
    with ObservedServer(hello, queue_size=1) as server:
        for _ in range(2):
            server.connect().send(request())
        server.loop.run_ready()
        exchange = only(server)
        assert (exchange.outcome, exchange.status_code, exchange.head.target) == ("refused", 503, "/")


def test_request_that_waited_too_long_is_refused_with_its_time() -> None:
    with ObservedServer(hello, queue_timeout=5) as server:
        server.connect().send(request())
        server.loop.run_ready()
        server.loop.advance(6)
        exchange = only(server)
        assert (exchange.outcome, exchange.status_code) == ("refused", 503)
        assert exchange.queue_time >= 5


def test_client_that_goes_while_it_waits_leaves_no_status() -> None:
    with ObservedServer(hello) as server:
        client = server.connect()
        client.send(request())
        server.loop.run_ready()
        client.reset()
        server.settle()
        assert (only(server).outcome, only(server).status_code, only(server).thread_time) == ("disconnected", 0, 0.0)


def test_client_that_goes_while_the_application_runs_is_disconnected() -> None:
    with ObservedServer(waits(10)) as server:
        client = server.connect()
        client.send(request())
        server.advance(1)
        client.reset()
        server.advance(20)
        assert (only(server).outcome, only(server).status_code, only(server).thread_time) == ("disconnected", 0, 1.0)


def test_client_that_closes_its_connection_while_the_application_runs_is_disconnected() -> None:
    with ObservedServer(waits(10)) as server:
        client = server.connect()
        client.send(request())
        client.end()
        server.advance(1)
        client.reset()  # of which the transport, which has read the end, does not tell
        server.advance(20)
        assert (only(server).outcome, only(server).status_code) == ("disconnected", 0)


def test_client_that_goes_while_it_sends_content_is_disconnected() -> None:
    with ObservedServer(hello) as server:
        client = server.connect()
        client.send(request("/up", "Content-Length: 5", method="POST"))
        server.settle()
        client.reset()
        server.settle()
        assert (only(server).outcome, only(server).head.target) == ("disconnected", "/up")


@pytest.mark.parametrize("gone", [True, False])
def test_client_that_goes_or_stays_without_reading_is_told_apart(gone: bool) -> None:
    with ObservedServer(streams(bytes(1_000_000)), write_timeout=10, kernel_size=1000) as server:
        client = server.connect()
        client.send(request())
        server.settle()
        if gone:
            client.reset()
        server.advance(60)
        assert (only(server).outcome, only(server).status_code) == ("disconnected" if gone else "timed_out", 200)


def test_request_that_the_server_breaks_off_is_aborted() -> None:
    with ObservedServer(waits(1000)) as server:
        server.connect().send(request())
        server.settle()
    assert only(server).outcome == "aborted"


def test_refusal_within_streamed_content_ends_the_exchange_once() -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["wsgi.input"].read()
        start_response("200 OK", [])
        return []

    with ObservedServer(application, stream_body=True) as server:
        client = server.connect()
        client.send(request("/up", "Transfer-Encoding: chunked", method="POST"))
        server.settle()
        client.send(b"zz\r\n")
        server.settle()
        assert (only(server).outcome, only(server).status_code, only(server).head.target) == ("refused", 400, "/up")


def test_client_and_scheme_are_what_a_trusted_proxy_says() -> None:
    with ObservedServer(hello, forwarded_allow_ips=("192.0.2.1",)) as server:
        client = server.connect()
        client.send(request("/", "X-Forwarded-For: 198.51.100.7", "X-Forwarded-Proto: https"))
        client.send(request())
        client.send(request("/", "X-Forwarded-For: nonsense"))
        server.settle()
    assert [(x.client_address, x.scheme, x.outcome, x.status_code) for x in server.ended] == [
        ("198.51.100.7", "https", "complete", 200),
        ("192.0.2.1", "http", "complete", 200),
        ("192.0.2.1", "http", "refused", 400),
    ]


def test_pipelined_requests_end_in_order() -> None:
    with ObservedServer(hello) as server:
        server.connect().send(request("/a") + request("/b") + b"c\r\n\r\n")
        server.settle()
        assert [exchange.head.target for exchange in server.ended] == ["/a", "/b", "-"]
        assert len({exchange.request_id for exchange in server.ended}) == 3
