"""PEP 3333 "Buffering and Streaming", and "Middleware Handling of Block Boundaries" as far as it asks a server.

What proves that no block is delayed: the application does not go on before the test has received the block.
"""

from __future__ import annotations

import threading

import pytest

from tests.pep3333.conftest import PATIENCE, Calls


class Step:
    """A point that an application passes only after the test has let it."""

    def __init__(self):
        self._semaphore = threading.Semaphore(0)

    def wait(self):
        assert self._semaphore.acquire(timeout=PATIENCE)

    def allow(self):
        self._semaphore.release()


BLOCKS = [b"one", b"two" * 10_000, b"3", b"four"]
REQUEST_1_0 = b"GET / HTTP/1.0\r\n\r\n"
REQUEST_1_1 = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n"


@pytest.mark.parametrize("how", ["generator", "write", "sized"])
@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
def test_block_reaches_the_client_before_the_next_is_made(serve, how, framing):
    # "must not delay the transmission of any block"
    step = Step()

    def blocks():
        for block in BLOCKS:
            yield block
            step.wait()

    class Sized:
        def __len__(self):
            return len(BLOCKS)

        def __iter__(self):
            return blocks()

    def application(environ, start_response):
        length = sum(map(len, BLOCKS))
        write = start_response("200 OK", [("Content-Length", str(length))] if framing == "length" else [])
        if how == "write":
            for block in blocks():
                write(block)
            return []
        return blocks() if how == "generator" else Sized()

    with serve(application).connect() as client:
        client.send(REQUEST_1_0 if framing == "close" else REQUEST_1_1)
        client.receive_head()
        for block in BLOCKS:
            assert (client.read_chunk() if framing == "chunked" else client.read(len(block))) == block
            step.allow()
        if framing == "chunked":
            assert client.read_chunk() == b""
        if framing == "close":
            assert client.at_end()


def test_empty_block_before_content_does_not_hold_up_what_follows(serve):
    # "If the middleware cannot yield any other value, it must yield an empty bytestring."
    step = Step()

    def application(environ, start_response):
        start_response("200 OK", [])
        for block in (b"", b"", b"one", b"", b"two", b""):
            yield block
            if block:
                step.wait()

    with serve(application).connect() as client:
        client.send(REQUEST_1_1)
        client.receive_head()
        for block in (b"one", b"two"):
            assert client.read_chunk() == block
            step.allow()
        assert client.read_chunk() == b""


def test_stream_of_one_client_goes_on_while_others_are_served(serve):
    # An endless stream holds its own thread and nobody else.
    step = Step()

    def application(environ, start_response):
        start_response("200 OK", [])
        if environ["PATH_INFO"] == "/quick":
            return [b"quick"]

        def stream():
            yield b"one"
            step.wait()
            yield b"two"

        return stream()

    server = serve(application, threads=2)
    with server.connect() as client, server.connect() as other:
        client.send(REQUEST_1_1)
        client.receive_head()
        assert client.read_chunk() == b"one"
        for _ in range(10):
            assert other.get("/quick").content == b"quick"
        step.allow()
        assert client.read_chunk() == b"two"
        assert client.read_chunk() == b""


def test_application_may_run_ahead_of_a_client_that_does_not_read_within_a_bound(serve):
    # "guarantee that they will continue transmission even while the application is producing its next block"
    ended = threading.Event()
    calls = Calls()
    size = 64 * 1024
    count = 2000  # 128 MB: more than sockets and pipe can hold together

    def application(environ, start_response):
        start_response("200 OK", [("Content-Length", str(size * count))])
        try:
            for number in range(count):
                yield bytes([number % 251]) * size
                calls.put(number)
        finally:
            ended.set()

    server = serve(application)
    with server.connect() as client:
        client.send(REQUEST_1_1)
        client.receive_head()
        assert calls.take() == 0  # the second block is asked for while the client has read nothing
        for number in range(20):
            assert client.read(size) == bytes([number % 251]) * size
        assert not ended.is_set()
    assert ended.wait(PATIENCE)  # the client has gone


def test_whole_body_of_one_block_arrives_with_its_head(serve):
    # "The recommended approach": head and content in what one send() took.
    def application(environ, start_response):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"Hello world!\n"]

    with serve(application).connect() as client:
        client.send(REQUEST_1_1)
        received = client.socket.recv(64 * 1024)
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert received.endswith(b"\r\n\r\nHello world!\n")
