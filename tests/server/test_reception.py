"""Content of known length is received straight to where the application reads it: in memory, and over both loops."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from aiowsgi.server.reception import ContentReceiver
from aiowsgi.testing import MemoryServer
from tests.conftest import ServerThread
from tests.hosting import poll
from tests.simulation.memory import SteppedClient, remains

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

Serve = Callable[..., ServerThread]

KiB = 1024
MiB = 1024 * KiB


def some_bytes(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def digest(content: bytes) -> bytes:
    return b"%d %s" % (len(content), hashlib.sha256(content).hexdigest()[:16].encode())


def post(content: bytes, *fields: bytes, length: int | None = None) -> bytes:
    size = len(content) if length is None else length
    return b"\r\n".join([b"POST / HTTP/1.1", b"Host: test", b"Content-Length: %d" % size, *fields, b"", b""]) + content


GET = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


def read_all(content: Any) -> bytes:
    whole: bytes = content.read()
    return whole


def read_pieces(content: Any) -> bytes:
    return b"".join(iter(lambda: content.read(10_000), b""))


def read_lines(content: Any) -> bytes:
    return b"".join(content)


def answering(read: Callable[[Any], bytes]) -> Any:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        answer = digest(read(environ["wsgi.input"]))
        assert environ["wsgi.input"].read() == b""
        start_response("200 OK", [("Content-Length", str(len(answer)))])
        return [answer]

    return application


@pytest.fixture(autouse=True)
def no_internal_errors(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test in which the server has met an error of its own, or the application one of its input's."""
    yield
    assert not [record for record in caplog.get_records("call") if record.levelname == "ERROR"]


@pytest.mark.parametrize("read", [read_all, read_pieces, read_lines])
@pytest.mark.parametrize("read_size", [999, 20_000, MiB])
def test_content_in_pieces_of_any_size_arrives_as_it_was_sent(read: Callable[[Any], bytes], read_size: int) -> None:
    with MemoryServer(answering(read)) as server:
        client = SteppedClient(server, read_size=read_size)
        for size in (64 * KiB, 300_000, 64 * KiB - 1, 0, MiB, 70_000):
            content = some_bytes(size)
            client.send(post(content))
            assert client.receive().content == digest(content)
            server.settle()
            assert server.engine.content_budget.used == 0
        client.close()
        server.settle()
        assert not remains(server)


@pytest.mark.parametrize("read_size", [5000, MiB])
def test_what_follows_the_content_belongs_to_later_requests(read_size: int) -> None:
    contents = [some_bytes(100_000), b"", some_bytes(200_000), some_bytes(100)]
    with MemoryServer(answering(read_all)) as server:
        client = SteppedClient(server, read_size=read_size)
        client.send(b"".join(post(content) if content else GET for content in contents))
        for content in contents:
            assert client.receive().content == digest(content)


def test_head_that_comes_alone_is_followed_by_its_content() -> None:
    content = some_bytes(500_000)
    with MemoryServer(answering(read_all)) as server:
        client = SteppedClient(server)
        for _ in range(3):
            client.send(post(b"", length=len(content)))
            server.settle()
            assert server.engine.content_budget.used == 0
            client.send(content[:10])
            server.settle()
            client.send(content[10:])
            assert client.receive().content == digest(content)


def transport_of(server: MemoryServer) -> asyncio.Transport:
    (connection,) = server.engine.connections
    return connection._transport


def test_application_is_not_called_while_the_transport_holds_the_memory() -> None:
    with MemoryServer(answering(read_all)) as server:
        client = SteppedClient(server)
        client.send(post(bytes(100_000), length=300_000))
        server.settle()
        receiver = transport_of(server).get_protocol()
        assert isinstance(receiver, ContentReceiver)
        buffer = memoryview(receiver.get_buffer(-1))
        buffer[:] = bytes(200_000)
        receiver.buffer_updated(200_000)
        assert not server.engine.exchanges  # it could not close its file
        del buffer
        assert client.receive().content == digest(bytes(300_000))


def test_connection_gets_its_reads_back_with_the_first_request_that_is_no_upload() -> None:
    with MemoryServer(answering(read_all)) as server:
        client = SteppedClient(server)
        for data in (post(bytes(300_000)), post(b"", length=300_000), bytes(300_000)):
            client.send(data)
            server.settle()
            assert isinstance(transport_of(server).get_protocol(), ContentReceiver)
        client.send(GET)
        server.settle()
        assert transport_of(server).get_protocol() in server.engine.connections


# What is reserved, and when.


def test_memory_is_reserved_once_enough_of_the_content_has_arrived() -> None:
    with MemoryServer(answering(read_all)) as server:
        client = SteppedClient(server)
        client.send(post(bytes(100), length=MiB))
        server.settle()
        assert server.engine.content_budget.used == 100
        client.send(bytes(16 * KiB))
        server.settle()
        assert server.engine.content_budget.used == MiB
        client.send(bytes(MiB - 16 * KiB - 100))
        assert client.receive().content == digest(bytes(MiB))
        server.settle()
        assert server.engine.content_budget.used == 0


def test_content_in_chunks_is_not_reserved() -> None:
    content = some_bytes(200_000)
    with MemoryServer(answering(read_all)) as server:
        client = SteppedClient(server, read_size=50_000)
        client.send(post(content))
        assert client.receive().content == digest(content)
        chunk = b"%x\r\n%b\r\n" % (len(content), content)
        client.send(b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk)
        server.settle()
        assert server.engine.content_budget.used == len(content)
        client.send(chunk + b"0\r\n\r\n")
        assert client.receive().content == digest(content * 2)


def test_content_over_request_buffer_is_not_reserved() -> None:
    content = some_bytes(300_001)
    with MemoryServer(answering(read_all), request_buffer=300_000) as server:
        client = SteppedClient(server)
        client.send(post(content[:100_000], length=len(content)))
        server.settle()
        assert server.engine.content_budget.used == 100_000
        client.send(content[100_000:])
        assert client.receive().content == digest(content)


def test_reservations_leave_half_of_the_total_to_others() -> None:
    contents = [some_bytes(100_000 + number) for number in range(5)]
    with MemoryServer(answering(read_all), request_buffer=200_000, request_buffer_total=400_000) as server:
        clients = [SteppedClient(server) for _ in contents]
        for client, content in zip(clients, contents, strict=True):
            client.send(post(content[:20_000], length=len(content)))
        server.settle()
        # One of them; a second would be over 200,000.
        assert server.engine.content_budget.used == 100_000 + 4 * 20_000
        for client, content in zip(clients, contents, strict=True):
            client.send(content[20_000:])
            assert client.receive().content == digest(content)
        server.settle()
        assert server.engine.content_budget.used == 0


def test_client_that_goes_gives_its_reservation_back() -> None:
    with MemoryServer(answering(read_all)) as server:
        for wait in range(8):
            client = SteppedClient(server, read_size=30_000)
            client.send(post(bytes(150_000), length=200_000))
            for _ in range(wait):
                server.step()
            client.reset()
            server.settle()
            assert not remains(server)


def test_application_that_keeps_a_view_of_its_content_keeps_no_budget() -> None:
    views: list[memoryview] = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        content: Any = environ["wsgi.input"]
        views.append(content.getbuffer())
        start_response("200 OK", [])
        return [digest(views[-1].tobytes())]

    with MemoryServer(application) as server:
        client = SteppedClient(server)
        for size in (300_000, 1000, 300_000):
            client.send(post(some_bytes(size)))
            assert client.receive().content == digest(some_bytes(size))
            server.settle()
            assert server.engine.content_budget.used == 0
    assert [bytes(view) for view in views] == [some_bytes(size) for size in (300_000, 1000, 300_000)]
    for view in views:  # a BytesIO that is collected before its view is an unraisable BufferError, from Python 3.13
        view.release()


def test_content_that_comes_too_slowly_is_408_also_where_it_has_memory() -> None:
    with MemoryServer(answering(read_all), body_timeout=5) as server:
        client = SteppedClient(server)
        client.send(post(bytes(50_000), length=100_000))
        server.settle()
        assert server.engine.content_budget.used == 100_000
        server.advance(6)
        assert client.receive().status_code == 408
        client.send(bytes(50_000) + GET)  # for nobody
        assert client.at_end()
        client.close()
        server.settle()
        assert not remains(server)


# Over sockets, where the loops' transports write to the memory.


@pytest.mark.parametrize("read", [read_all, read_pieces])
def test_uploads_on_one_connection_arrive_as_they_were_sent(
    serve: Serve, parser_name: str, read: Callable[[Any], bytes]
) -> None:
    with serve(answering(read), http=parser_name).connect() as client:
        for size in (MiB, 0, 500_000, 100, MiB, MiB + 1, MiB - 1):
            content = some_bytes(size)
            client.send(post(content) if size else GET)
            assert client.receive().content == digest(content)
        contents = [some_bytes(300_000), b"", some_bytes(700_000)]
        client.send(b"".join(post(content) if content else GET for content in contents))
        for content in contents:
            assert client.receive().content == digest(content)


def test_many_uploads_at_once_are_not_mixed_up(serve: Serve) -> None:
    server = serve(answering(read_pieces))
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(10)]
        contents = [some_bytes(200_000 + number) for number in range(10)]
        for _ in range(3):
            for client, content in zip(clients, contents, strict=True):
                client.send(post(content[:100_000], length=len(content)))
            for client, content in zip(clients, contents, strict=True):
                client.send(content[100_000:])
            for client, content in zip(clients, contents, strict=True):
                assert client.receive().content == digest(content)


@pytest.mark.parametrize("reset", [False, True])
def test_upload_cut_short_never_reaches_the_application(serve: Serve, reset: bool) -> None:
    called: list[bool] = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        called.append(True)
        start_response("200 OK", [])
        return []

    server = serve(application)
    client = server.connect()
    with client:
        # The first makes the connection one that uploads.
        client.send(post(bytes(200_000)))
        assert client.receive().status_code == 200
        client.send(post(bytes(100_000), length=200_000))
        if reset:
            client.reset()
        else:
            client.end()
            assert client.receive().status_code == 400
            assert client.at_end()
    engine = server.server._engine
    assert engine is not None
    poll(lambda: not engine.connections)
    assert len(called) == 1
    assert engine.content_budget.used == 0


def test_client_that_ends_its_side_after_an_upload_gets_its_answer(serve: Serve) -> None:
    content = some_bytes(400_000)
    with serve(answering(read_all)).connect() as client:
        client.send(post(content))
        client.end()
        assert client.receive().content == digest(content)
        assert client.at_end()


def test_large_answer_to_an_upload_is_sent_on_as_the_client_reads(serve: Serve) -> None:
    def echo(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        content = environ["wsgi.input"].read()
        start_response("200 OK", [])
        return (content for _ in range(20))

    content = some_bytes(MiB)
    with serve(echo).connect() as client:
        for _ in range(2):
            client.send(post(content))
            assert client.receive().content == content * 20
