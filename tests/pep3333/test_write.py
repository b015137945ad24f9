"""PEP 3333 "The ``write()`` Callable"."""

from __future__ import annotations

import pytest

from aiowsgi.errors import ApplicationError
from aiowsgi.wsgi.response import Response
from tests.pep3333.conftest import Calls
from tests.wsgi.sink import RecordingSink


def writing(*blocks, returned=(), headers=()):
    def application(environ, start_response):
        write = start_response("200 OK", list(headers))
        for block in blocks:
            write(block)
        return returned

    return application


@pytest.mark.parametrize(
    "returned", [[], (), [b""], iter([]), {}], ids=["list", "tuple", "empty block", "iterator", "dict"]
)
def test_written_blocks_with_an_empty_iterable_are_the_whole_content(serve, returned):
    # "The returned iterable may be empty (i.e. yield no non-empty bytestrings)"
    with serve(writing(b"one", b"two", returned=returned)).connect() as client:
        assert client.get().content == b"onetwo"
        assert client.get().content == b"onetwo"


@pytest.mark.parametrize("shape", [list, tuple, iter], ids=["list", "tuple", "iterator"])
def test_yielded_blocks_follow_the_written_ones(serve, shape):
    # "any bytestrings yielded by the iterable are transmitted after all bytestrings passed to write()"
    with serve(writing(b"one,", b"two,", returned=shape([b"three,", b"four"]))).connect() as client:
        assert client.get().content == b"one,two,three,four"


def test_written_empty_block_is_no_chunk(serve):
    with serve(writing(b"", b"one", b"", b"two", b"")).connect() as client:
        assert client.get().content == b"onetwo"
        assert client.get().content == b"onetwo"


def test_written_nothing_is_a_response_without_content(serve):
    with serve(writing(b"")).connect() as client:
        response = client.get()
        assert response.status_code == 200
        assert response.value("Content-Length") == "0"


def test_written_content_of_the_declared_length_keeps_the_connection(serve):
    with serve(writing(b"con", b"tent", headers=[("Content-Length", "7")])).connect() as client:
        for _ in range(2):
            response = client.get()
            assert response.value("Content-Length") == "7"
            assert response.content == b"content"


def test_written_content_reaches_a_client_of_http_1_0_until_the_end(serve):
    with serve(writing(b"one", b"two", returned=[b"three"])).connect() as client:
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert client.receive().content == b"onetwothree"


@pytest.mark.parametrize("size", [1, 64 * 1024, 5 * 1024 * 1024])
def test_written_block_of_any_size_arrives_whole(serve, size):
    with serve(writing(b"a" * size, b"z")).connect() as client:
        assert client.get().content == b"a" * size + b"z"


def test_written_content_is_not_sent_for_head(serve):
    with serve(writing(b"one", b"two", returned=[b"three"])).connect() as client:
        assert client.get(method="HEAD").status_code == 200
        assert client.get().content == b"onetwothree"  # nothing is in the way of the next response


def test_write_within_the_iteration_keeps_the_order(serve):
    # Applications must not; order is still the least that can be kept.
    def application(environ, start_response):
        write = start_response("200 OK", [])
        yield b"one,"
        write(b"two,")
        yield b"three"

    with serve(application).connect() as client:
        assert client.get().content == b"one,two,three"


def test_write_returned_by_a_second_start_response_is_as_good(serve):
    def application(environ, start_response):
        first = start_response("200 OK", [])
        try:
            raise ValueError
        except ValueError as error:
            second = start_response("500 Oops", [], (ValueError, error, error.__traceback__))
        second(b"one,")
        first(b"two")
        return []

    with serve(application).connect() as client:
        response = client.get()
        assert response.status_code == 500
        assert response.content == b"one,two"


@pytest.mark.parametrize(
    "block", ["text", bytearray(b"x"), memoryview(b"x"), None, 1, [b"x"], ""], ids=lambda block: type(block).__name__
)
def test_write_of_anything_but_bytes_raises_in_the_application(block):
    # PEP 3333 "Unicode Issues": "passed to write() ... the value must be of type bytes"
    sink = RecordingSink()
    write = Response("GET", sink).start_response("200 OK", [])
    with pytest.raises(ApplicationError, match="not bytes"):
        write(block)
    assert sink.calls == []


@pytest.mark.parametrize(
    "body", [[b"content"], iter([b"content"]), [], iter([b""])], ids=["list", "iterator", "[]", "empty"]
)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_write_after_the_end_of_the_response_raises_and_sends_nothing(serve, error_log, body, version):
    """A ``write`` that was kept until ``close()`` would otherwise put its bytes where the next response begins."""
    calls = Calls()

    class Body:
        def __init__(self, write):
            self.write = write

        def __iter__(self):
            return iter(body)

        def close(self):
            try:
                self.write(b"HTTP/1.1 200 OK\r\n\r\nLATE")
            except ApplicationError as error:
                calls.put(str(error))

    with serve(lambda environ, start_response: Body(start_response("200 OK", []))).connect() as client:
        client.send(f"GET / HTTP/{version}\r\nHost: test\r\nConnection: close\r\n\r\n".encode())
        received = client.read_all()
    assert "after the end of the response" in calls.take()
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"LATE" not in received
    assert error_log.records == []
