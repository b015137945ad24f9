"""PEP 3333 "Handling the ``Content-Length`` Header"."""

from __future__ import annotations

import pytest

from tests.pep3333.conftest import Calls, returning
from tests.raw import Truncated


def generator_of(blocks, length=None, write=()):
    """Return an application that writes, then yields."""

    def application(environ, start_response):
        headers = [] if length is None else [("Content-Length", str(length))]
        write_block = start_response("200 OK", headers)
        for block in write:
            write_block(block)
        return iter(blocks)

    return application


@pytest.mark.parametrize(
    "blocks",
    [[b"content"], [b"con", b"tent"], [b"", b"content"], [b"c", b"", b"ontent", b""], [b"content", b""]],
    ids=str,
)
@pytest.mark.parametrize("shape", [list, tuple, iter], ids=["list", "tuple", "iterator"])
def test_length_that_fits_is_sent_and_the_connection_stays(serve, shape, blocks):
    def application(environ, start_response):
        start_response("200 OK", [("Content-Length", "7")])
        return shape(blocks)

    with serve(application).connect() as client:
        for _ in range(2):
            response = client.get()
            assert response.value("Content-Length") == "7"
            assert response.value("Transfer-Encoding") is None
            assert response.value("Connection") is None
            assert response.content == b"content"


@pytest.mark.parametrize("shape", [list, iter], ids=["list", "iterator"])
def test_length_of_zero_with_no_content_is_sent(serve, shape):
    def application(environ, start_response):
        start_response("200 OK", [("Content-Length", "0")])
        return shape([b""])

    with serve(application).connect() as client:
        assert client.get().value("Content-Length") == "0"
        assert client.get().content == b""


@pytest.mark.parametrize(
    ("length", "blocks"),
    [(0, [b"x"]), (3, [b"four"]), (3, [b"", b"four", b"more"])],
    ids=["nothing allowed", "one block", "after an empty block"],
)
@pytest.mark.parametrize("shape", [list, iter], ids=["list", "iterator"])
def test_length_exceeded_by_the_first_block_is_500(serve, error_log, shape, length, blocks):
    # "should not transmit more bytes to the client than the header allows"
    with serve(returning(shape(blocks), headers=[("Content-Length", str(length))])).connect() as client:
        assert client.get().status_code == 500


def test_length_exceeded_by_a_later_block_sends_no_more_and_breaks_off(serve, error_log):
    with serve(generator_of([b"1234", b"567"], 5)).connect() as client, pytest.raises(Truncated) as caught:
        client.get()
    assert caught.value.args[0] == b"1234"


def test_length_reached_exactly_ends_the_response_and_what_follows_is_not_sent(serve, error_log):
    # "should stop iterating over the response when enough data has been sent, or raise an error"
    with serve(generator_of([b"12", b"345", b"SURPLUS", b"MORE"], 5)).connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        received = client.read_all()
    head, _, content = received.partition(b"\r\n\r\n")
    assert b"Content-Length: 5" in head
    assert content == b"12345"


@pytest.mark.parametrize("written", [[b"12345", b"6"], [b"123456"], [b"1", b"23456"]], ids=str)
def test_write_past_the_length_raises_in_the_application(serve, error_log, written):
    # "or raise an error if the application tries to write() past that point"
    calls = Calls()

    def application(environ, start_response):
        write = start_response("200 OK", [("Content-Length", "5")])
        try:
            for block in written:
                write(block)
        except Exception as error:
            calls.put(str(error))
            raise
        return []

    with serve(application).connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        received = client.read_all()
    assert "longer than its Content-Length" in calls.take()
    assert b"6" not in received.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize(
    ("blocks", "write"), [([b"123"], []), ([], [b"123"]), ([b"3"], [b"12"])], ids=["yielded", "written", "both"]
)
def test_length_not_reached_closes_the_connection_and_reports_it(serve, error_log, blocks, write):
    # "does not provide enough data ... should close the connection and log or otherwise report the error"
    with serve(generator_of(blocks, 5, write)).connect() as client, pytest.raises(Truncated) as caught:
        client.get()
    assert caught.value.args[0] == b"123"
    assert "2 bytes shorter than its Content-Length" in error_log.text


@pytest.mark.parametrize("blocks", [[], [b"123"], [b"12", b"3"]], ids=str)
def test_length_not_reached_by_a_list_is_500(serve, error_log, blocks):
    # The list is known whole before anything has left.
    with serve(returning(blocks, headers=[("Content-Length", "5")])).connect() as client:
        assert client.get().status_code == 500
    assert "Content-Length" in error_log.text


def test_list_without_a_length_gets_the_sum_of_its_blocks(serve):
    with serve(returning([b"one", b"", b"three"])).connect() as client:
        response = client.get()
        assert response.value("Content-Length") == "8"
        assert response.value("Transfer-Encoding") is None


@pytest.mark.parametrize("blocks", [[b"one"], [b"one", b"two"], [b"x" * 100_000]], ids=["one", "two", "large"])
def test_generator_without_a_length_is_chunked_for_http_1_1_and_the_connection_stays(serve, blocks):
    # "may use chunked encoding to send a chunk for each write() call or bytestring yielded"
    def application(environ, start_response):
        start_response("200 OK", [])
        yield from blocks

    with serve(application).connect() as client:
        for _ in range(2):
            response = client.get()
            assert response.value("Transfer-Encoding") == "chunked"
            assert response.value("Content-Length") is None
            assert response.value("Connection") is None
            assert response.content == b"".join(blocks)


def test_chunk_is_sent_for_each_block(serve):
    # "a chunk for each write() call or bytestring yielded by the iterable"
    with serve(generator_of([b"three", b"", b"four"], write=[b"one", b"", b"two"])).connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        assert client.receive_head().value("Transfer-Encoding") == "chunked"
        assert [client.read_chunk() for _ in range(5)] == [b"one", b"two", b"three", b"four", b""]


@pytest.mark.parametrize("fields", [b"", b"Connection: keep-alive\r\n"], ids=["plain", "keep-alive"])
def test_generator_without_a_length_ends_with_the_connection_for_http_1_0(serve, fields):
    # "The simplest of these is to close the client connection when the response is completed."
    with serve(generator_of([b"one", b"two"])).connect() as client:
        client.send(b"GET / HTTP/1.0\r\n" + fields + b"\r\n")
        response = client.receive_head()
        assert response.value("Transfer-Encoding") is None
        assert response.value("Content-Length") is None
        assert response.value("Connection") == "close"
        assert client.read_all() == b"onetwo"


def test_generator_with_a_length_keeps_an_http_1_0_connection_that_asks_for_it(serve):
    # "avoid the need to close the client connection"
    with serve(generator_of([b"con", b"tent"], 7)).connect() as client:
        client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        response = client.receive()
        assert response.value("Content-Length") == "7"
        assert response.value("Connection") == "keep-alive"
        assert response.content == b"content"


def test_generator_whose_first_block_is_the_whole_length_ends_with_it(serve):
    """Frameworks answer so; the response is whole before the generator has ended."""
    with serve(generator_of([b"content"], 7)).connect() as client:
        for _ in range(2):
            response = client.get()
            assert response.values("Content-Length") == ["7"]
            assert response.content == b"content"


def test_write_with_an_iterable_of_one_block_does_not_guess_the_length(serve):
    # "If the application does not call the write() callable, and returns an iterable whose len() is 1"
    def application(environ, start_response):
        write = start_response("200 OK", [])
        write(b"written,")
        return [b"returned"]

    with serve(application).connect() as client:
        for _ in range(2):
            response = client.get()
            assert response.value("Content-Length") is None
            assert response.content == b"written,returned"


def test_length_larger_than_memory_is_not_allocated(serve):
    # A promise, not an order: the response breaks off after what there is.
    with serve(generator_of([b"content"], 10**18)).connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
        assert client.receive_head().value("Content-Length") == str(10**18)
        assert client.read_all() == b"content"
