"""``--stream-body``: the application starts at the head, and reads while the content arrives."""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from aiowsgi import ClientDisconnected
from aiowsgi.bridge.pipes import ContentPipe
from tests.conftest import ServerThread
from tests.process.server_process import wait_until
from tests.raw import RawClient

Serve = Callable[..., ServerThread]

LATE_SECONDS = 3.0


def head(size: int | None, *fields: str, path: str = "/") -> bytes:
    framing = "Transfer-Encoding: chunked" if size is None else f"Content-Length: {size}"
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: test", framing, *fields, "", ""]).encode()


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


class Reader:
    """Reads its content as the test says; notes what it has read, or what was raised."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.go_on = threading.Event()
        self.blocks: list[bytes] = []
        self.error: BaseException | None = None

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        content = environ["wsgi.input"]
        path = environ["PATH_INFO"]
        self.started.set()
        if path == "/quick":
            start_response("200 OK", [])
            return [b"quick"]
        if path in ("/late", "/never"):
            assert self.go_on.wait(20)
        try:
            while path != "/never" and (block := content.readline() if path == "/lines" else content.read(10)):
                self.blocks.append(block)
        except OSError as error:
            self.error = error
            raise
        start_response("200 OK", [])
        return [b"".join(self.blocks)]


@pytest.fixture
def reader() -> Iterator[Reader]:
    application = Reader()
    yield application
    application.go_on.set()


def stalled_count(server: ServerThread) -> int:
    return int(server.call(server.server.stats).threads.stalled)


def is_silent(client: RawClient, seconds: float) -> bool:
    return not select.select([client.socket], [], [], seconds)[0]


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_application_reads_content_as_it_arrives(serve: Serve, reader: Reader, chunked: bool) -> None:
    server = serve(reader, stream_body=True)
    frame = chunk if chunked else bytes
    with server.connect() as client:
        client.send(head(None if chunked else 30))
        assert reader.started.wait(10)
        for number in range(3):
            wait_until(lambda: stalled_count(server) == 1, "the read that waits")
            assert len(reader.blocks) == number
            client.send(frame(b"0123456789"))
            wait_until(lambda number=number: len(reader.blocks) == number + 1, "the block")
        client.send(b"0\r\n\r\n" if chunked else b"")
        assert client.receive().content == b"0123456789" * 3
        # All of the content was read: the connection goes on.
        assert client.get("/quick").content == b"quick"
    assert stalled_count(server) == 0


def test_lines_are_read_as_they_arrive(serve: Serve, reader: Reader) -> None:
    server = serve(reader, stream_body=True)
    with server.connect() as client:
        client.send(head(20, path="/lines") + b"first\nsec")
        wait_until(lambda: reader.blocks == [b"first\n"], "the first line")
        client.send(b"ond\n")
        wait_until(lambda: reader.blocks == [b"first\n", b"second\n"], "the second line")
        client.send(b"no end.")
        assert client.receive().content == b"first\nsecond\nno end."


def test_reads_that_wait_block_their_own_threads_alone(serve: Serve, reader: Reader) -> None:
    server = serve(reader, stream_body=True, threads=2)
    with contextlib.ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(server.connect()).send(head(10))
        wait_until(lambda: stalled_count(server) == 10, "the reads that wait")
        with server.connect(5) as client:
            assert client.get("/quick").content == b"quick"
    wait_until(lambda: not server.server.engine.exchanges, "the end of the requests")
    assert stalled_count(server) == 0


def test_client_that_sends_faster_than_the_application_reads_has_to_wait(serve: Serve, reader: Reader) -> None:
    server = serve(reader, stream_body=True, request_buffer=100_000)
    with server.connect() as client:
        client.send(head(50_000_000, path="/late"))
        assert reader.started.wait(10)
        client.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.send(b"x" * 50_000_000)
        (connection,) = server.server.engine.connections
        # Half a megabyte is read at once at most.
        assert connection._content._pipe.size < 100_000 + 600_000
        client.reset()
        reader.go_on.set()
    wait_until(lambda: not server.server.engine.exchanges, "the end of the request")
    assert isinstance(reader.error, ClientDisconnected)


# 100 Continue.


def test_continue_is_sent_at_the_first_read(serve: Serve, reader: Reader) -> None:
    with serve(reader, stream_body=True).connect() as client:
        client.send(head(10, "Expect: 100-continue", path="/late"))
        assert reader.started.wait(10)
        assert is_silent(client, 0.2)
        reader.go_on.set()
        assert client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue"
        client.send(b"0123456789")
        assert client.receive().content == b"0123456789"


def test_continue_is_not_sent_to_who_is_answered_without_a_read(serve: Serve, reader: Reader) -> None:
    with serve(reader, stream_body=True).connect() as client:
        client.send(head(10, "Expect: 100-continue", path="/quick"))
        response = client.receive()
        assert response.interim == []
        assert response.content == b"quick"
        # Whether the client will send the content after that answer nobody knows.
        assert response.value("Connection") == "close"


def test_client_that_waits_for_continue_is_not_timed_out_before_it(serve: Serve, reader: Reader) -> None:
    """It was not asked for anything yet, however long the application takes for its first read."""
    server = serve(reader, stream_body=True, body_timeout=0.3)
    with server.connect() as client:
        client.send(head(10, "Expect: 100-continue", path="/late"))
        assert reader.started.wait(10)
        assert is_silent(client, 0.45)
        reader.go_on.set()
        assert client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue"
        client.send(b"0123456789")
        assert client.receive().content == b"0123456789"


# Timeouts.


def test_client_that_sends_nothing_is_408_after_body_timeout(serve: Serve, reader: Reader) -> None:
    """Not after the longer one that a request may wait for a thread."""
    server = serve(reader, stream_body=True, body_timeout=0.3, queue_timeout=30)
    with server.connect() as client:
        begun = time.monotonic()
        client.send(head(10))
        assert client.receive().status_code == 408
        assert 0.2 < time.monotonic() - begun < 0.3 + LATE_SECONDS
        assert client.at_end()
    wait_until(lambda: not server.server.engine.exchanges, "the end of the request")
    assert isinstance(reader.error, ClientDisconnected)


def test_client_that_dribbles_below_the_minimum_rate_is_408(serve: Serve, reader: Reader) -> None:
    server = serve(reader, stream_body=True, body_timeout=0.3, body_min_rate=240)
    with server.connect() as client:
        client.send(head(1000))
        begun = time.monotonic()
        while is_silent(client, 0.05):
            client.send(b"x")
            assert time.monotonic() - begun < 0.6 + LATE_SECONDS
        assert client.receive().status_code == 408
    wait_until(lambda: reader.error is not None, "the error")


def test_loop_goes_on_while_an_application_takes_longer_than_body_timeout_for_its_first_read(
    serve: Serve, reader: Reader
) -> None:
    """The content's deadline passes again and again, and each time it is not the client's fault."""
    server = serve(reader, stream_body=True, body_timeout=0.2, queue_timeout=0.2)
    with server.connect() as client:
        client.send(head(10, path="/late"))
        assert reader.started.wait(10)
        with server.connect(5) as other:
            before = time.process_time()
            begun = time.monotonic()
            while time.monotonic() - begun < 0.7:
                assert other.get("/quick").content == b"quick"
                select.select([], [], [], 0.05)
            assert time.process_time() - before < 0.5  # nor does it turn in circles
        client.send(b"0123456789")
        reader.go_on.set()
        assert client.receive().content == b"0123456789"


def test_content_that_waits_for_a_slow_application_is_not_timed_out(serve: Serve, reader: Reader) -> None:
    """The client would send on, and cannot."""
    server = serve(reader, stream_body=True, body_timeout=0.2, request_buffer=1000)
    with server.connect() as client:
        content = b"0123456789" * 1000
        client.send(head(len(content), path="/late") + content)
        assert reader.started.wait(10)
        assert is_silent(client, 0.5)
        reader.go_on.set()
        assert client.receive().content == content


# Content that does not come to its end.


def test_content_cut_short_by_half_a_close_raises_and_is_400(serve: Serve, reader: Reader) -> None:
    server = serve(reader, stream_body=True)
    with server.connect() as client:
        client.send(head(30) + b"0123456789")
        wait_until(lambda: reader.blocks == [b"0123456789"], "the first block")
        client.end()
        assert client.receive().status_code == 400
        assert client.at_end()
    wait_until(lambda: not server.server.engine.exchanges, "the end of the request")
    assert isinstance(reader.error, ClientDisconnected)


def test_malformed_chunk_raises_and_is_400(serve: Serve, reader: Reader) -> None:
    server = serve(reader, stream_body=True)
    with server.connect() as client:
        client.send(head(None) + chunk(b"0123456789"))
        wait_until(lambda: reader.blocks == [b"0123456789"], "the first block")
        client.send(b"no chunk size\r\n")
        assert client.receive().status_code == 400
        assert client.at_end()
    wait_until(lambda: not server.server.engine.exchanges, "the end of the request")
    assert isinstance(reader.error, OSError)


def test_content_over_the_limit_raises_and_is_413(serve: Serve, reader: Reader) -> None:
    server = serve(reader, stream_body=True, limit_request_body=15)
    with server.connect() as client:
        client.send(head(None) + chunk(b"0123456789"))
        wait_until(lambda: reader.blocks == [b"0123456789"], "the first block")
        client.send(chunk(b"0123456789"))
        assert client.receive().status_code == 413
    wait_until(lambda: not server.server.engine.exchanges, "the end of the request")
    assert isinstance(reader.error, OSError)


def test_content_that_is_not_read_ends_the_connection_after_the_answer(serve: Serve, reader: Reader) -> None:
    server = serve(reader, stream_body=True)
    with server.connect() as client:
        client.send(head(1000, path="/quick") + b"only a part")
        response = client.receive()
        assert response.content == b"quick"
        assert response.value("Connection") == "close"
        assert client.at_end()


def test_content_that_had_arrived_and_is_not_read_keeps_the_connection(serve: Serve, reader: Reader) -> None:
    server = serve(reader, stream_body=True)
    with server.connect() as client:
        client.send(head(10, path="/never") + b"0123456789")
        assert reader.started.wait(10)
        reader.go_on.set()
        response = client.receive()
        assert response.status_code == 200
        assert client.get("/quick").content == b"quick"


def test_pipelined_request_after_streamed_content_is_answered(serve: Serve, reader: Reader) -> None:
    server = serve(reader, stream_body=True)
    with server.connect() as client:
        client.send(head(10) + b"01234")
        wait_until(lambda: stalled_count(server) == 1, "the read that waits")
        client.send(b"56789" + b"GET /quick HTTP/1.1\r\nHost: test\r\n\r\n")
        assert client.receive().content == b"0123456789"
        assert client.receive().content == b"quick"


def test_answer_is_streamed_while_content_arrives(serve: Serve) -> None:
    def echo(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        while block := environ["wsgi.input"].read(10):
            yield block

    with serve(echo, stream_body=True).connect() as client:
        client.send(head(30))
        for number in range(3):
            client.send(b"%d" % number * 10)
            if number == 0:
                client.receive_head()
            assert client.read_chunk() == b"%d" % number * 10
        assert client.read_chunk() == b""


def test_tiny_blocks_are_joined_while_they_wait() -> None:
    """As objects of their own they would take twenty times their size."""
    pipe = ContentPipe(lambda ready: contextlib.nullcontext(), lambda: None)
    for _ in range(10_000):
        pipe.feed(b"xy")
    pipe.feed_end()
    assert len(pipe._blocks) < 100
    assert pipe.size == 20_000
    assert pipe.read() == b"xy" * 10_000
