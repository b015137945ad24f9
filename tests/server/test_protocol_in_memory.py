"""A connection, event by event: pipelining, backpressure, half a close, content, clients that go. Without sockets."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from aiowsgi import park
from aiowsgi.bridge.pipes import ContentPipe
from aiowsgi.errors import ClientDisconnected
from aiowsgi.server.content import ContentStream
from aiowsgi.testing import MemoryServer, VirtualLoop
from aiowsgi.testing.loop import VirtualHandle
from tests.raw import Truncated
from tests.recursion import MARGINS, near_the_limit
from tests.simulation.memory import GET, NothingArrived, SteppedClient, blocks, each_path, hello, remains

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

# What is read of later requests while one is answered, and what one read may add to it.
READ_AHEAD = 64 * 1024
ONE_READ = 256 * 1024
# Seconds, of the real clock, that a thread of the application's own may take. Nothing waits so long when it passes.
PATIENCE = 10.0


def get(path: str) -> bytes:
    return b"GET %s HTTP/1.1\r\nHost: test\r\n\r\n" % path.encode()


def post(content: bytes, *fields: bytes, length: int | None = None) -> bytes:
    size = len(content) if length is None else length
    lines = [b"POST / HTTP/1.1", b"Host: test", b"Content-Length: %d" % size, *fields, b"", b""]
    return b"\r\n".join(lines) + content


def counting(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with the request's path and the size of its content."""
    size = len(environ["wsgi.input"].read())
    start_response("200 OK", [])
    return [environ["PATH_INFO"].encode(), b" %d" % size]


@pytest.fixture(autouse=True)
def no_internal_errors(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test in which the server has met an error of its own."""
    yield
    internal = [record.getMessage() for record in caplog.get_records("call") if "internal error" in record.getMessage()]
    assert not internal


@pytest.fixture
def temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where temporary files go."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()


# One request after another.


@pytest.mark.parametrize("read_size", [1, 7, 100_000])
def test_request_in_pieces_of_any_size_is_answered(read_size: int) -> None:
    with MemoryServer(counting) as server:
        client = SteppedClient(server, read_size=read_size)
        for size in (0, 1, 100):
            client.send(post(bytes(size)))
        for size in (0, 1, 100):
            assert client.receive().content == b"/ %d" % size


def test_requests_pipelined_are_answered_in_their_order() -> None:
    with MemoryServer(counting) as server:
        client = SteppedClient(server)
        client.send(b"".join(get(f"/{number}") for number in range(50)))
        for number in range(50):
            assert client.receive().content == b"/%d 0" % number


LARGE = bytes(70_000)  # goes out in pieces


@pytest.mark.parametrize("blocks", [[LARGE, b""], [b"", LARGE], [b"", LARGE, b"", b"", LARGE, b""]])
def test_large_response_with_empty_blocks_is_written_without_them(blocks: list[bytes]) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return blocks

    with MemoryServer(application) as server:
        assert SteppedClient(server).get().content == b"".join(blocks)


# For a transport that copies.

PORTION = 100_000
IN_PORTIONS = [bytes([number]) * 150_000 for number in range(10)]


def serve_portions(application: Callable[..., Iterable[bytes]], **options: Any) -> MemoryServer:
    server = MemoryServer(application, **options)
    server.engine.portion_size = PORTION
    return server


def whole_in_portions(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [])
    return IN_PORTIONS


def one_block_in_portions(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [])
    yield b"".join(IN_PORTIONS)


@pytest.mark.parametrize("application", [whole_in_portions, one_block_in_portions])
@pytest.mark.parametrize("request_data", [GET, GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")])
def test_response_in_portions_lies_in_the_transport_one_at_a_time(
    application: Callable[..., Iterable[bytes]], request_data: bytes
) -> None:
    with serve_portions(application) as server:
        client = SteppedClient(server)
        client.send(request_data)
        server.settle()
        assert not server.engine.exchanges  # no thread waits
        [connection] = server.engine.connections
        # The kernel's 64 KiB are out, and what is left of the first portion crossed no limit.
        assert 0 < connection._transport.get_write_buffer_size() < 2 * PORTION
        assert client.receive().content == b"".join(IN_PORTIONS)
        if request_data == GET:
            assert client.get().content == b"".join(IN_PORTIONS)
        else:
            assert client.at_end()


def test_response_in_portions_to_a_client_that_has_ended_its_side_is_whole() -> None:
    with serve_portions(whole_in_portions) as server:
        client = SteppedClient(server)
        client.send(GET)
        client.end()
        server.settle()
        assert client.receive().content == b"".join(IN_PORTIONS)
        assert client.at_end()


def test_response_in_portions_to_a_client_that_goes_is_let_go_of() -> None:
    with serve_portions(whole_in_portions) as server:
        client = SteppedClient(server)
        client.send(GET)
        server.settle()
        [connection] = server.engine.connections
        exchange = connection.exchange
        assert exchange is not None
        pipe = exchange.pipe
        assert pipe is not None
        assert pipe._rest
        client.reset()
        server.settle()
        assert not pipe._rest
        assert not remains(server)


def test_response_in_portions_to_a_client_that_takes_none_is_reset_in_time() -> None:
    with serve_portions(whole_in_portions, write_timeout=30) as server:
        client = SteppedClient(server)
        client.send(GET)
        for _ in range(3):
            server.advance(20)
            assert client.memory.read(100_000)
        server.advance(20)
        assert not client.memory.was_reset
        server.advance(20)
        assert client.memory.was_reset


def test_response_in_portions_before_the_end_of_its_content_reaches_a_client_that_sends_all_of_that_first() -> None:
    """It is written as a whole: else the content, which nobody reads, would be in its way."""
    with serve_portions(whole_in_portions, stream_body=True, request_buffer=1000) as server:
        client = SteppedClient(server)
        client.send(post(bytes(100_000), length=1_000_000))
        server.settle()
        for _ in range(9):
            client.send(bytes(100_000))
            server.settle()
        assert not client.memory.unread_size
        assert client.receive().content == b"".join(IN_PORTIONS)


TINY_CHUNKS = b"1\r\nx\r\n" * 20_000
CHUNKED = b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_many_small_chunks_leave_turns_of_the_loop_to_others() -> None:
    with MemoryServer(counting) as server:
        uploading = SteppedClient(server, read_size=ONE_READ)
        other = SteppedClient(server)
        uploading.send(CHUNKED + TINY_CHUNKS)
        other.send(get("/other"))
        for _ in range(30):  # the chunks take 40
            server.loop.run_turn()
            server.pool.step()
        assert other.memory.read().endswith(b"/other 0")
        assert any(connection._http.behind for connection in server.engine.connections)


@pytest.mark.parametrize("stream_body", [False, True])
def test_many_small_chunks_arrive_whole_and_in_order(stream_body: bool) -> None:
    with MemoryServer(counting, stream_body=stream_body) as server:
        client = SteppedClient(server, read_size=ONE_READ)
        client.send(CHUNKED + TINY_CHUNKS)
        for _ in range(10):
            server.step()
        client.send(TINY_CHUNKS + b"0\r\n\r\n" + get("/next"))
        assert client.receive().content == b"/ 40000"
        assert client.receive().content == b"/next 0"


@pytest.mark.parametrize("stream_body", [False, True])
@pytest.mark.parametrize("before", [b"", get("/first"), CHUNKED + b"0\r\n\r\n", CHUNKED + TINY_CHUNKS + b"0\r\n\r\n"])
@pytest.mark.parametrize("count", [400, 1000, 8000])
def test_many_small_chunks_of_a_client_that_has_ended_its_side_are_read_to_their_end(
    stream_body: bool, before: bytes, count: int
) -> None:
    with MemoryServer(counting, stream_body=stream_body) as server:
        client = SteppedClient(server, read_size=ONE_READ)
        client.send(before + CHUNKED + b"1\r\nx\r\n" * count + b"0\r\n\r\n")
        client.end()
        if before:
            assert client.receive().status_code == 200
        assert client.receive().content == b"/ %d" % count
        assert client.at_end()


@pytest.mark.parametrize("before", [b"", get("/first")])
@pytest.mark.parametrize("rest", [b"", b"1\r\nx", b"5"])
def test_many_small_chunks_whose_end_is_missing_are_400(before: bytes, rest: bytes) -> None:
    with MemoryServer(counting) as server:
        client = SteppedClient(server, read_size=ONE_READ)
        client.send(before + CHUNKED + b"1\r\nx\r\n" * 1000 + rest)
        client.end()
        if before:
            assert client.receive().status_code == 200
        assert client.receive().status_code == 400


@pytest.mark.parametrize("stream_body", [False, True])
@pytest.mark.parametrize("end", [b"1", b"1\r", b"1\r\n", b"1\r\nx", b"1\r\nx\r"])
def test_reading_goes_on_where_many_small_chunks_end_in_the_middle_of_one(stream_body: bool, end: bytes) -> None:
    with MemoryServer(counting, stream_body=stream_body) as server:
        client = SteppedClient(server, read_size=ONE_READ)
        client.send(CHUNKED + b"1\r\nx\r\n" * 1000 + end)
        server.settle()
        client.send(b"1\r\nx\r\n"[len(end) :] + b"0\r\n\r\n")
        assert client.receive().content == b"/ 1001"


@pytest.mark.parametrize("stream_body", [False, True])
def test_small_chunks_of_many_clients_that_have_ended_their_sides_are_read_to_their_end(stream_body: bool) -> None:
    with MemoryServer(counting, stream_body=stream_body) as server:  # more than a batch, so that some are postponed
        clients = [SteppedClient(server, peername=("192.0.2.1", number)) for number in range(200)]
        for client in clients:
            client.send(CHUNKED + b"1\r\nx\r\n" * 1000 + b"0\r\n\r\n")
            client.end()
        for client in clients:
            assert client.receive().content == b"/ 1000"


def test_client_that_goes_while_its_chunks_are_left_unread_leaves_nothing_behind() -> None:
    with MemoryServer(counting) as server:
        client = SteppedClient(server, read_size=ONE_READ)
        client.send(CHUNKED + TINY_CHUNKS)
        server.loop.run_turn()
        server.loop.run_turn()
        server.loop.run_turn()
        (protocol,) = server.engine.connections
        assert protocol._http.behind
        protocol.abort()
        server.settle()
        assert not server.engine.connections


def test_refusal_while_chunks_are_left_unread_is_answered_whole() -> None:
    with MemoryServer(counting, limit_request_body=1000) as server:
        client = SteppedClient(server, read_size=ONE_READ)
        client.send(CHUNKED + TINY_CHUNKS)
        assert client.receive().status_code == 413


def test_request_is_not_begun_before_the_one_before_it_is_answered() -> None:
    with MemoryServer(counting) as server:
        client = SteppedClient(server)
        client.send(get("/1") + get("/2"))
        server.loop.run_ready()
        assert server.pool.waiting_count == 1
        server.step()
        assert server.pool.waiting_count == 0
        server.loop.run_ready()
        assert server.pool.waiting_count == 1


def test_read_ahead_is_bounded_and_reading_goes_on_afterwards() -> None:
    with MemoryServer(counting) as server:
        client = SteppedClient(server)
        client.send(get("/first"))
        server.loop.run_ready()
        client.send(post(bytes(2_000_000)))
        server.loop.run_ready()
        assert client.memory.unread_size > 2_000_000 - READ_AHEAD - ONE_READ
        assert client.receive().content == b"/first 0"
        assert client.receive().content == b"/ 2000000"
        assert client.memory.unread_size == 0


def test_read_ahead_is_bounded_however_many_requests_are_pipelined() -> None:
    with MemoryServer(counting) as server:
        client = SteppedClient(server)
        requests = get("/x") * 100_000
        client.send(requests)
        server.loop.run_ready()
        answered = 0
        for _ in range(200):
            server.pool.step()
            server.loop.run_ready()
            answered += client.memory.read().count(b"200 OK")
            taken = len(requests) - client.memory.unread_size
            assert taken - answered * len(get("/x")) <= READ_AHEAD + 2 * ONE_READ
        assert answered == 200


def test_head_larger_than_the_read_ahead_arrives_behind_a_request() -> None:
    options = {"limit_request_head": 1_000_000, "limit_request_fields": 1000}
    with MemoryServer(counting, **options) as server:
        client = SteppedClient(server)
        fields = b"".join(b"X-%d: %b\r\n" % (number, b"x" * 1000) for number in range(900))
        client.send(get("/first") + b"GET /second HTTP/1.1\r\nHost: test\r\n" + fields + b"\r\n")
        assert client.receive().content == b"/first 0"
        assert client.receive().content == b"/second 0"


def test_response_is_not_made_while_the_one_before_it_is_not_taken() -> None:
    first, second = blocks(1, 1_000_000), blocks(1, 1_000_000)
    with MemoryServer(each_path(first=first, second=second)) as server:
        client = SteppedClient(server)
        client.send(get("/first") + get("/second"))
        server.settle()
        assert (first.made, second.made) == (1, 0)
        assert server.pool.stats().running == server.pool.stats().stalled == 0
        assert len(client.receive().content) == 1_000_000
        assert len(client.receive().content) == 1_000_000


def test_generator_runs_a_bounded_way_ahead_of_its_client() -> None:
    application = blocks(10_000, 1000)
    with MemoryServer(application, response_buffer=50_000, kernel_size=10_000) as server:
        client = SteppedClient(server)
        client.send(GET)
        server.settle()
        # The pipe, the block that crossed its limit, the transport (64 KiB, and one pipe's content on top), the kernel.
        bound = 50_000 + 1000 + 64 * 1024 + 51_000 + 10_000 + 1000
        assert server.pool.stats().stalled == 1
        taken = 0
        while taken < 500_000:
            assert application.made * 1000 <= taken + bound
            taken += len(client.memory.read(5000))
            server.settle()
        client.reset()
        server.settle()
        assert application.closed == 1
        assert not remains(server)


def test_generator_to_a_client_that_reads_is_never_stalled_for_good() -> None:
    application = blocks(1000, 1000)
    with MemoryServer(application, response_buffer=1) as server:
        client = SteppedClient(server)
        client.send(GET)
        assert client.receive().content == bytes(1_000_000)
        assert application.closed == 1
        assert not server.engine.exchanges


# Half a close, and clients that go.


def test_client_that_ends_its_side_gets_its_answers() -> None:
    with MemoryServer(counting) as server:
        client = SteppedClient(server)
        client.send(get("/1") + get("/2"))
        client.end()
        assert client.receive().content == b"/1 0"
        assert client.receive().content == b"/2 0"
        assert client.at_end()
        assert not remains(server)


@pytest.mark.parametrize("begun", [b"GET /2", b"POST /2 HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\n123"])
def test_client_that_ends_its_side_in_a_second_request_gets_one_answer_and_a_400(begun: bytes) -> None:
    with MemoryServer(counting) as server:
        client = SteppedClient(server)
        client.send(get("/1") + begun)
        client.end()
        assert client.receive().content == b"/1 0"
        assert client.receive().status_code == 400
        assert client.at_end()
        assert not remains(server)


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"\r"])
def test_client_that_ends_its_side_without_a_request_is_closed_at_once(sent: bytes) -> None:
    with MemoryServer(counting) as server:
        client = SteppedClient(server)
        client.send(sent)
        server.settle()
        client.end()
        assert client.at_end()
        assert not remains(server)


def test_client_that_ends_its_side_and_vanishes_is_noticed_within_a_second() -> None:
    seen = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        seen.append(environ["aiowsgi.disconnected"].wait())
        return hello(environ, start_response)

    with MemoryServer(application) as server:
        client = SteppedClient(server)
        client.send(GET)
        client.end()
        server.advance(10)
        assert not seen
        client.reset()
        server.advance(1)
        assert seen == [True]
        assert not remains(server)


def test_client_that_vanishes_with_much_read_ahead_is_noticed_within_a_second() -> None:
    seen = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        seen.append(environ["aiowsgi.disconnected"].wait())
        return hello(environ, start_response)

    with MemoryServer(application) as server:
        client = SteppedClient(server)
        client.send(GET + post(bytes(1_000_000)))
        server.settle()
        assert client.memory.unread_size  # reading is paused
        client.reset()
        server.advance(1)
        assert seen == [True]
        assert not remains(server)


def test_request_of_a_client_that_went_while_it_waited_never_runs() -> None:
    called = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        called.append(environ)
        return hello(environ, start_response)

    with MemoryServer(application) as server:
        client = SteppedClient(server)
        client.send(post(b"content"))
        server.loop.run_ready()
        assert server.pool.waiting_count == 1
        client.reset()
        server.settle()
        assert not called
        assert not remains(server)


def test_request_withdrawn_at_the_moment_a_thread_takes_it_is_no_error() -> None:
    with MemoryServer(hello) as server:
        client = SteppedClient(server)
        client.send(GET)
        server.loop.run_ready()
        (exchange,) = server.engine.exchanges

        class Ticket(list[None]):
            def pop(self, *args: Any) -> None:
                super().pop(*args)
                server.pool.begin()  # a thread comes between

        exchange._ticket = Ticket([None])
        client.reset()
        server.settle()
        assert not remains(server)


def test_application_whose_client_goes_is_told() -> None:
    seen = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        disconnected = environ["aiowsgi.disconnected"]
        seen.extend([disconnected.is_set(), environ["waitress.client_disconnected"]()])
        seen.append(disconnected.wait(10))
        seen.append(disconnected.wait(10))
        seen.extend([disconnected.is_set(), environ["waitress.client_disconnected"]()])
        return hello(environ, start_response)

    with MemoryServer(application) as server:
        client = SteppedClient(server)
        client.send(GET)
        server.advance(15)
        assert seen == [False, False, False]
        client.reset()
        server.settle()
        assert seen == [False, False, False, True, True, True]
        assert not remains(server)


def test_thread_of_the_application_s_own_waits_for_its_client_as_the_application_does() -> None:
    done = threading.Event()
    seen: list[Any] = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", [])

        def echo() -> None:
            try:
                content = environ["wsgi.input"].read()
                for _ in range(100):
                    write(10_000 * content)
                seen.append(environ["aiowsgi.disconnected"].wait(10))
                seen.append(environ["aiowsgi.disconnected"].wait())
            except Exception as error:
                seen.append(error)
            finally:
                done.set()

        environ["aiowsgi.disconnected"].add_callback(lambda: seen.append("called"))
        thread = threading.Thread(target=echo)
        thread.start()
        server.pool.wait_until(lambda: not thread.is_alive() or len(seen) == 1)
        return []

    def run_until(condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not (condition() or done.is_set()):
            assert time.monotonic() < deadline
            server.settle()

    with MemoryServer(application, stream_body=True, keep_alive=3600) as server:
        client = server.connect()
        client.send(post(b"", length=1))
        run_until(lambda: server.pool.stats().stalled)
        assert seen == []
        client.send(b"x")
        server.settle()
        run_until(lambda: server.pool.stats().stalled)  # the client reads nothing
        assert seen == []
        received = bytearray()
        run_until(lambda: received.extend(client.read()) or received.count(b"x") == 1_000_000)
        assert seen == []
        run_until(lambda: server.advance(10) or seen)
        assert seen == [False]
        server.settle()
        client.reset()
        server.settle()
        assert done.wait(PATIENCE)
        assert seen == [False, "called", True]
        server.settle()
        assert not remains(server)


def test_generator_whose_client_goes_is_closed_in_its_own_thread_and_context() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="outside")
    seen: list[Any] = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            while True:
                yield bytes(10_000)

        def close(self) -> None:
            seen.append((threading.get_ident(), variable.get()))

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        variable.set("inside")
        seen.append((threading.get_ident(), variable.get()))
        start_response("200 OK", [])
        return Body()

    with MemoryServer(application) as server:
        clients = [SteppedClient(server) for _ in range(3)]
        for client in clients:
            client.send(GET)
        server.settle()
        calls = list(seen)
        for client in reversed(clients):
            client.reset()
            server.settle()
        assert len(set(calls)) == 3
        assert seen[3:] == calls[::-1]
        assert not remains(server)


def test_generator_whose_client_goes_gets_client_disconnected_at_its_write() -> None:
    errors: list[BaseException] = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", [])
        try:
            while True:
                write(bytes(10_000))
        except OSError as error:
            errors.append(error)
            raise

    with MemoryServer(application) as server:
        client = SteppedClient(server)
        client.send(GET)
        server.settle()
        client.reset()
        server.settle()
        assert [type(error) for error in errors] == [ClientDisconnected]
        assert not remains(server)


def test_generator_of_nothing_whose_client_goes_is_closed() -> None:
    closed = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        try:
            while True:
                server.pool.pause()
                yield b""
        finally:
            closed.append(True)

    with MemoryServer(application) as server:
        client = SteppedClient(server)
        client.send(GET)
        for _ in range(50):
            server.step()
        client.reset()
        server.settle()
        assert closed == [True]
        assert not remains(server)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_generator_whose_close_fails_has_still_answered(version: str, caplog: pytest.LogCaptureFixture) -> None:
    class Body:
        def __iter__(self) -> Iterator[bytes]:
            yield b"one"
            yield b"two"

        def close(self) -> None:
            raise RuntimeError("fault of a test")

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return Body()

    with MemoryServer(application) as server:
        client = SteppedClient(server)
        client.send(f"GET / HTTP/{version}\r\nHost: test\r\n\r\n".encode())
        assert client.receive().content == b"onetwo"
        if version == "1.1":
            assert client.get().content == b"onetwo"
        else:
            assert client.at_end()
        assert "fault of a test" in caplog.text


def test_generator_that_fails_midway_ends_the_connection_visibly(caplog: pytest.LogCaptureFixture) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        yield b"one"
        raise RuntimeError("fault of a test")

    with MemoryServer(application) as server:
        client = SteppedClient(server)
        client.send(GET)
        with pytest.raises(Truncated):
            client.receive()
        old = SteppedClient(server)
        old.send(b"GET / HTTP/1.0\r\n\r\n")
        with pytest.raises(ConnectionResetError):
            old.receive()
        assert caplog.text.count("failed: RuntimeError: fault of a test") == 2


# Files.


@pytest.fixture
def large_file(tmp_path: Path) -> Path:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(1024) * 3000)
    return path


def file_application(path: Path) -> Any:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](path.open("rb"))

    return application


def test_file_goes_out_in_pieces_while_no_thread_waits(large_file: Path) -> None:
    before = descriptors()
    with MemoryServer(file_application(large_file)) as server:
        client = SteppedClient(server)
        client.send(GET)
        server.settle()
        assert not server.engine.exchanges
        assert server.pool.stats().stalled == server.pool.stats().running == 0
        assert not server.io_pool.waiting_count
        # A piece of 256 KiB that crossed the transport's limit, the kernel's 64 KiB.
        transport_size = sum(connection._transport.get_write_buffer_size() for connection in server.engine.connections)
        assert transport_size <= ONE_READ
        assert client.receive().content == large_file.read_bytes()
        assert client.get().content == large_file.read_bytes()
    assert descriptors() == before


@pytest.mark.parametrize(
    ("size", "options", "in_pieces"),
    [
        (256 * 1024, {}, False),
        (256 * 1024 + 1, {}, True),
        (300_000, {"response_buffer": 1024 * 1024}, True),
        (1001, {"response_buffer": 1000}, True),
    ],
)
def test_file_that_is_small_is_read_by_its_thread(
    size: int, options: dict[str, Any], in_pieces: bool, tmp_path: Path
) -> None:
    path = tmp_path / "small"
    path.write_bytes(os.urandom(size))
    with MemoryServer(file_application(path), **options) as server:
        client = SteppedClient(server)
        assert client.get().content == path.read_bytes()
        assert bool(server.io_pool.stats().idle) == in_pieces


def test_file_whose_client_goes_is_closed(large_file: Path) -> None:
    before = descriptors()
    with MemoryServer(file_application(large_file)) as server:
        for wait in range(6):
            client = SteppedClient(server)
            client.send(GET)
            for _ in range(wait):
                server.step()
            client.reset()
            server.settle()
        assert not remains(server)
        assert descriptors() == before


def test_file_that_became_shorter_ends_the_connection_before_its_content_length(
    large_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with MemoryServer(file_application(large_file)) as server:
        client = SteppedClient(server)
        client.send(GET)
        server.settle()
        os.truncate(large_file, 1_000_000)
        with pytest.raises(Truncated):
            client.receive()
        assert "became shorter" in caplog.text


# Content that is collected.


def test_content_in_memory_makes_no_file(temporary_directory: Path) -> None:
    with MemoryServer(counting, request_buffer=1000) as server:
        client = SteppedClient(server)
        client.send(post(bytes(500), length=1000))
        server.settle()
        assert server.engine.content_budget.used == 500
        client.send(bytes(500))
        assert client.receive().content == b"/ 1000"
        assert server.engine.content_budget.used == 0
        assert not server.io_pool.stats().idle


def test_content_beyond_request_buffer_goes_to_a_file_and_reading_pauses(temporary_directory: Path) -> None:
    kinds = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        kinds.append(environ["wsgi.input"].fileno())
        return counting(environ, start_response)

    before = descriptors()
    with MemoryServer(application, request_buffer=1000) as server:
        client = SteppedClient(server, read_size=600)
        client.send(post(bytes(500_000)))
        server.loop.run_ready()
        # What one read brought over the limit; no more is read until it has been written.
        assert 1000 < server.engine.content_budget.used <= 1200
        assert client.receive().content == b"/ 500000"
        assert kinds
        assert not server.engine.content_budget.used
        client.close()
        server.settle()
        assert not remains(server)
        assert descriptors() == before


def test_content_of_all_requests_together_is_bounded(temporary_directory: Path) -> None:
    total = 64 * 1024
    with MemoryServer(counting, request_buffer=50_000, request_buffer_total=total) as server:
        clients = [SteppedClient(server, read_size=1000) for _ in range(10)]
        for client in clients:
            client.send(post(bytes(30_000), length=40_000))
        most = 0
        while server.step():
            most = max(most, server.engine.content_budget.used)
        assert total < most + 1000
        assert most <= total + 10 * 1000  # what one read of each brings
        for client in clients:
            client.send(bytes(10_000))
        assert {client.receive().content for client in clients} == {b"/ 40000"}
        assert server.engine.content_budget.used == 0


def test_content_of_a_client_that_goes_leaves_no_file_and_no_memory(temporary_directory: Path) -> None:
    before = descriptors()
    with MemoryServer(counting, request_buffer=1000) as server:
        for wait in range(12):
            client = SteppedClient(server, read_size=700)
            client.send(post(bytes(5000), length=100_000))
            for _ in range(wait):
                server.step()
            client.reset()
            server.settle()
            assert not remains(server)
        assert descriptors() == before


def test_content_that_cannot_be_stored_is_500(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with MemoryServer(counting, request_buffer=1000) as server:
        client = SteppedClient(server)
        client.send(post(bytes(5000)))
        assert client.receive().status_code == 500
        assert client.at_end()
        assert "cannot store request content" in caplog.text
        client.close()
        server.settle()
        assert not remains(server)


# Content that is streamed.


@pytest.mark.parametrize("framing", ["Content-Length: 5", "Transfer-Encoding: chunked"])
def test_stream_that_is_read_to_its_last_byte_at_once_keeps_the_connection(
    framing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "5")])
        return [environ["wsgi.input"].read(5)]

    with MemoryServer(application, stream_body=True) as server:
        feed = ContentPipe.feed

        def feed_and_answer(pipe: ContentPipe, block: bytes) -> None:
            """The thread is so quick that it has answered before the loop comes to what follows the block."""
            feed(pipe, block)
            server.pool.step()

        monkeypatch.setattr(ContentPipe, "feed", feed_and_answer)
        client = SteppedClient(server)
        for _ in range(2):
            client.send(f"POST / HTTP/1.1\r\nHost: test\r\n{framing}\r\n\r\n".encode())
            server.settle()
            assert server.pool.stats().stalled == 1
            client.send(b"5\r\nhello\r\n0\r\n\r\n" if "chunked" in framing else b"hello")
            response = client.receive()
            assert response.content == b"hello"
            assert response.values("Connection") == []


def test_stream_starts_the_application_at_the_head() -> None:
    reads: list[bytes] = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        while block := environ["wsgi.input"].read(3):
            reads.append(block)
        return [b"done"]

    with MemoryServer(application, stream_body=True) as server:
        client = SteppedClient(server)
        client.send(post(b"", length=7))
        server.settle()
        assert server.pool.stats().stalled == 1
        client.send(b"abcd")
        server.settle()
        assert reads == [b"abc"]
        assert server.pool.stats().stalled == 1
        client.send(b"efg")
        assert client.receive().content == b"done"
        assert reads == [b"abc", b"def", b"g"]
        assert client.get("/").content == b"done"


def test_stream_that_is_not_read_stops_the_client() -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        server.pool.wait_until(lambda: bool(going_on))
        return counting(environ, start_response)

    going_on: list[bool] = []
    with MemoryServer(application, stream_body=True, request_buffer=10_000) as server:
        client = SteppedClient(server)
        client.send(post(bytes(3_000_000)))
        server.settle()
        assert client.memory.unread_size > 3_000_000 - 10_000 - ONE_READ
        going_on.append(True)
        assert client.receive().content == b"/ 3000000"


def test_streams_of_all_requests_together_are_bounded_and_none_waits_for_another() -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/":
            server.pool.wait_until(lambda: bool(going_on))
        return counting(environ, start_response)

    going_on: list[bool] = []
    total = 64 * 1024
    with MemoryServer(application, stream_body=True, request_buffer=50_000, request_buffer_total=total) as server:
        clients = [SteppedClient(server, read_size=1000) for _ in range(10)]
        for client in clients:
            client.send(post(bytes(30_000), length=40_000))
        server.settle()
        held_size = server.engine.content_budget.used
        assert total <= held_size <= total + 10 * 1000  # what one read of each brings
        assert sum(client.memory.unread_size for client in clients) == 10 * 30_000 - held_size
        other = SteppedClient(server, read_size=1000)
        other.send(post(bytes(40_000)).replace(b"/", b"/other", 1))
        assert other.receive().content == b"/other 40000"
        assert server.engine.content_budget.used == held_size
        going_on.append(True)
        for client in clients:
            client.send(bytes(10_000))
        assert {client.receive().content for client in clients} == {b"/ 40000"}
        assert server.engine.content_budget.used == 0


def test_stream_that_is_read_is_no_longer_counted() -> None:
    with MemoryServer(counting, stream_body=True) as server:
        client = SteppedClient(server)
        client.send(post(bytes(5000), length=10_000))
        server.loop.run_ready()
        assert server.engine.content_budget.used == 5000
        server.settle()
        assert server.pool.stats().stalled == 1
        assert server.engine.content_budget.used == 0


def test_stream_of_a_client_that_goes_is_no_longer_counted() -> None:
    with MemoryServer(counting, stream_body=True) as server:
        for wait in range(6):
            client = SteppedClient(server, read_size=700)
            client.send(post(bytes(5000), length=100_000))
            for _ in range(wait):
                server.step()
            client.reset()
            server.settle()
            assert not remains(server)


def test_stream_sends_100_continue_at_the_first_read() -> None:
    begun: list[bool] = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        server.pool.wait_until(lambda: bool(begun))
        return counting(environ, start_response)

    with MemoryServer(application, stream_body=True) as server:
        client = SteppedClient(server)
        client.send(post(b"", b"Expect: 100-continue", length=3))
        server.settle()
        assert client.memory.arrived_size == 0
        begun.append(True)
        assert client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue"
        client.send(b"abc")
        assert client.receive().content == b"/ 3"


def test_stream_read_after_the_response_began_sends_no_100_continue_into_it() -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        yield b"first"
        yield environ["wsgi.input"].read()

    with MemoryServer(application, stream_body=True) as server:
        client = SteppedClient(server)
        client.send(post(b"", b"Expect: 100-continue", length=3))
        response = client.receive_head()
        assert response.interim == []
        assert client.read_chunk() == b"first"
        server.settle()
        client.send(b"abc")
        assert client.read_chunk() == b"abc"
        assert client.read_chunk() == b""


@pytest.mark.parametrize("end", ["end", "reset"])
def test_stream_cut_short_raises_in_the_application(end: str) -> None:
    errors: list[BaseException] = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            return counting(environ, start_response)
        except OSError as error:
            errors.append(error)
            raise

    with MemoryServer(application, stream_body=True) as server:
        client = SteppedClient(server)
        client.send(post(b"12345", length=10))
        server.settle()
        getattr(client, end)()
        server.settle()
        assert [type(error) for error in errors] == [ClientDisconnected]
        if end == "end":
            assert client.receive().status_code == 400
        assert not remains(server)


def test_stream_with_a_malformed_chunk_is_400_and_raises_in_the_application() -> None:
    errors: list[BaseException] = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        assert environ["wsgi.input"].read(5) == b"12345"
        try:
            environ["wsgi.input"].read(1)
        except OSError as error:
            errors.append(error)
            raise
        return hello(environ, start_response)

    with MemoryServer(application, stream_body=True) as server:
        client = SteppedClient(server)
        client.send(b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n")
        server.settle()
        client.send(b"no size\r\n")
        assert client.receive().status_code == 400
        assert client.at_end()
        assert [type(error) for error in errors] == [ClientDisconnected]


def test_stream_with_a_malformed_chunk_after_the_response_began_is_reset() -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        yield b"first"
        yield environ["wsgi.input"].read()

    with MemoryServer(application, stream_body=True) as server:
        client = SteppedClient(server)
        client.send(b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n")
        client.receive_head()
        client.send(b"no size\r\n")
        server.settle()
        assert client.memory.was_reset
        assert not remains(server)


def test_stream_with_a_malformed_chunk_while_a_file_is_sent_is_reset(large_file: Path) -> None:
    before = descriptors()
    os.truncate(large_file, 300_000)  # two pieces
    with MemoryServer(file_application(large_file), stream_body=True, kernel_size=1_000_000) as server:
        for wait in range(8):
            client = SteppedClient(server)
            client.send(b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n")
            server.loop.run_ready()
            server.pool.step()
            for _ in range(wait):
                server.step()
            client.send(b"no size\r\n")
            server.io_pool.step()  # both are there at the loop's next turn
            server.settle()
            assert client.memory.was_reset or len(client.receive().content) == 300_000
            client.close()
            server.settle()
        assert not remains(server)
        assert descriptors() == before


@pytest.mark.parametrize("ends", ["withdrawn", "answered", "cut short"])
def test_stream_that_is_not_read_to_its_end_is_freed_without_the_collector(ends: str) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["wsgi.input"].read(-1 if ends == "cut short" else 1)
        return hello(environ, start_response)

    def streams() -> list[object]:
        return [each for each in gc.get_objects() if isinstance(each, (ContentPipe, ContentStream))]

    gc.collect()
    gc.disable()
    try:
        with MemoryServer(application, stream_body=True) as server:
            client = SteppedClient(server)
            client.send(post(b"", b"Expect: 100-continue", length=400_000))
            server.loop.run_ready()
            client.send(bytes(200_000))
            server.loop.run_ready()
            assert streams()
            if ends != "withdrawn":
                server.settle()
            client.reset()
            SteppedClient(server).get()  # its thread holds what it ran last
            assert not streams()
    finally:
        gc.enable()


def test_stream_not_read_closes_the_connection_after_the_answer() -> None:
    with MemoryServer(hello, stream_body=True) as server:
        client = SteppedClient(server)
        client.send(post(b"12345", length=1_000_000))
        response = client.receive()
        assert response.content == b"hello"
        assert response.value("Connection") == "close"
        client.send(bytes(500_000))  # it goes on sending: that must not destroy the answer
        assert client.at_end()
        client.close()
        server.settle()
        assert not remains(server)


def test_stream_that_had_arrived_whole_keeps_the_connection() -> None:
    with MemoryServer(hello, stream_body=True) as server:
        client = SteppedClient(server)
        for _ in range(3):
            response = client.post(b"unread")
            assert response.content == b"hello"
            assert response.value("Connection") is None


# Ending.


def test_refusal_is_not_destroyed_by_what_the_client_goes_on_sending() -> None:
    with MemoryServer(hello, limit_request_body=1000) as server:
        client = SteppedClient(server)
        client.send(post(bytes(500), length=2_000_000))
        server.settle()
        client.send(bytes(1_000_000))
        assert client.receive().status_code == 413
        assert client.at_end()
        client.close()
        server.settle()
        assert not remains(server)


def test_client_that_never_stops_sending_after_a_refusal_is_cut_off() -> None:
    with MemoryServer(hello, limit_request_body=1000) as server:
        client = SteppedClient(server)
        client.send(post(bytes(500), length=2_000_000))
        sent_count = 0
        while not client.memory.was_reset:
            client.send(bytes(1_000_000))
            server.settle()
            sent_count += 1
        assert sent_count < 40
        assert not remains(server)


def test_close_in_the_middle_of_everything_leaves_nothing(large_file: Path, temporary_directory: Path) -> None:
    before = descriptors()
    application = each_path(large=blocks(1000, 10_000), file=file_application(large_file))
    server = MemoryServer(application, request_buffer=1000)
    with server:
        for data in (get("/large"), get("/file"), post(bytes(5000), length=6000), GET[:7], get("/large") * 100):
            SteppedClient(server, read_size=2000).send(data)
        for _ in range(20):
            server.step()
    assert not remains(server)
    assert descriptors() == before


class DeepLoop(VirtualLoop):
    """Comes as deep as asyncio's, and deeper."""

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any, **options: Any) -> VirtualHandle:
        def deeper(count: int) -> VirtualHandle:
            return deeper(count - 1) if count else VirtualLoop.call_soon_threadsafe(self, callback, *args, **options)

        return deeper(10)


class DeepServer(MemoryServer):
    def make_loop(self) -> VirtualLoop:
        return DeepLoop()


@pytest.mark.parametrize("catches", [False, True])
@pytest.mark.parametrize("fields", [[], [("Content-Length", "4")]])
def test_response_written_close_to_the_recursion_limit_is_never_waited_for_in_vain(
    fields: list[tuple[str, str]], catches: bool
) -> None:
    errors = 0
    margins = iter(MARGINS)

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        nonlocal errors
        write = start_response("200 OK", fields)
        try:
            near_the_limit(next(margins), lambda: write(b"deep"))
        except RecursionError:
            errors += 1
            if not catches:
                raise
            return [b"rest"]
        return []

    with DeepServer(application) as server:
        for _ in MARGINS:
            client = SteppedClient(server)
            with contextlib.suppress(Truncated):
                assert client.get().status_code in (200, 500)
    assert 0 < errors < len(MARGINS)


# Parked.


async def ticks(count: int, size: int, closed: list[bool]) -> AsyncIterator[bytes]:
    try:
        for _ in range(count):
            yield bytes(size)
    finally:
        closed.append(True)


def parked_application(count: int, size: int, closed: list[bool]) -> Any:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return park(environ, ticks(count, size, closed))

    return application


def test_parked_response_goes_on_without_a_thread() -> None:
    closed: list[bool] = []
    with MemoryServer(parked_application(100, 10_000, closed)) as server:
        client = SteppedClient(server)
        client.send(GET)
        server.settle()
        assert not server.engine.exchanges
        assert not closed
        assert client.receive().content == bytes(1_000_000)
        assert closed == [True]
        assert len(client.get().content) == 1_000_000


def test_parked_response_lets_go_of_the_fields_of_its_request() -> None:
    with MemoryServer(parked_application(10, 100_000, [])) as server:
        client = SteppedClient(server)
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\nCookie: " + b"x" * 4000 + b"\r\n\r\n")
        server.settle()
        (connection,) = server.engine.connections
        assert connection.parked
        assert connection.exchange is not None
        assert connection.exchange.head.variables == {}


@pytest.mark.parametrize("wait", range(12))
def test_parked_response_whose_client_goes_is_closed(wait: int) -> None:
    closed: list[bool] = []
    with MemoryServer(parked_application(100, 10_000, closed)) as server:
        client = SteppedClient(server)
        client.send(GET)
        for _ in range(wait):
            server.step()
        client.reset()
        server.settle()
        assert closed in ([], [True])  # nothing, if it had not begun
        assert not remains(server)


def test_parked_response_that_is_not_taken_is_reset_after_write_timeout() -> None:
    closed: list[bool] = []
    with MemoryServer(parked_application(100, 10_000, closed), write_timeout=60) as server:
        client = SteppedClient(server)
        client.send(GET)
        server.advance(61)
        assert client.memory.was_reset
        assert closed == [True]
        assert not remains(server)


class EagerLoop(VirtualLoop):
    """As a program's with ``asyncio.eager_task_factory``: a task begins inside of the call that makes it."""

    def create_task(self, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        return asyncio.Task(coroutine, loop=cast(Any, self), eager_start=True, **options)


class EagerServer(MemoryServer):
    def make_loop(self) -> VirtualLoop:
        return EagerLoop()


@pytest.mark.skipif(sys.version_info < (3, 12), reason="no eager tasks")
def test_parked_response_where_the_programs_tasks_are_eager_is_whole() -> None:
    closed: list[bool] = []
    with EagerServer(parked_application(3, 10, closed)) as server:
        client = SteppedClient(server)
        assert client.get().content == bytes(30)
        assert closed == [True]
        assert client.get().content == bytes(30)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="no eager tasks")
def test_parked_response_to_head_where_the_programs_tasks_are_eager_is_never_begun() -> None:
    begun: list[bool] = []

    async def events() -> AsyncIterator[bytes]:
        begun.append(True)
        yield b"event"

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return park(environ, events())

    with EagerServer(application) as server:
        assert SteppedClient(server).get(method="HEAD").status_code == 200
        server.settle()
    assert not begun


def test_response_of_unknown_length_that_fails_while_its_client_is_behind_is_reset_in_a_turn_of_its_own() -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        for _ in range(20):
            yield bytes(100_000)
        raise RuntimeError("on purpose")

    with MemoryServer(application) as server:
        client = SteppedClient(server)
        client.send(b"GET / HTTP/1.0\r\n\r\n" + get("/next"))
        server.settle()
        with pytest.raises(ConnectionResetError):
            client.receive()
        server.settle()
        assert not remains(server)


def test_nothing_more_arrives_after_the_last_response() -> None:
    with MemoryServer(hello) as server:
        client = SteppedClient(server)
        client.get()
        with pytest.raises(NothingArrived):
            client.receive()


def test_disconnection_is_nothing_to_report(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aiowsgi.error")
    with MemoryServer(blocks(1000, 10_000)) as server:
        client = SteppedClient(server)
        client.send(GET)
        server.settle()
        client.reset()
        server.settle()
    assert not caplog.records
