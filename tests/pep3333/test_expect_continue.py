"""PEP 3333 "HTTP 1.1 Expect/Continue"."""

from __future__ import annotations

import threading

import pytest

HEAD = b"POST / HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nContent-Length: 7\r\n\r\n"


def echo(environ, start_response):
    start_response("200 OK", [])
    return [environ["wsgi.input"].read()]


def ignoring(environ, start_response):
    start_response("200 OK", [])
    return [b"not read"]


@pytest.mark.parametrize("expectation", ["100-continue", "100-Continue"])
def test_expectation_is_met_by_100_and_then_the_response(serve, expectation):
    # 'must provide transparent support for HTTP 1.1's "expect/continue" mechanism'
    with serve(echo).connect() as client:
        for _ in range(2):
            client.send(HEAD.replace(b"100-continue", expectation.encode()))
            assert client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue"
            client.send(b"content")
            response = client.receive()
            assert response.interim == []
            assert response.status_code == 200
            assert response.content == b"content"


def test_expectation_with_chunked_content_is_met(serve):
    with serve(echo).connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue"
        client.send(b"7\r\ncontent\r\n0\r\n\r\n")
        assert client.receive().content == b"content"


def test_expectation_of_content_that_came_along_needs_no_100(serve):
    # RFC 9110 §10.1.1: the server MAY omit it where it has received some or all of the content.
    with serve(echo).connect() as client:
        client.send(HEAD + b"content")
        response = client.receive()
        assert response.content == b"content"
        assert len(response.interim) <= 1


def test_expectation_met_for_an_application_that_does_not_read_leaves_the_connection_usable(serve):
    with serve(ignoring).connect() as client:
        for _ in range(2):
            client.send(HEAD)
            assert client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue"
            client.send(b"content")
            assert client.receive().content == b"not read"


def test_expectation_in_http_1_0_is_ignored(serve):
    # "these behavior restrictions do not apply for HTTP 1.0 requests"; a 1.0 client would take 100 for the answer.
    with serve(echo).connect() as client:
        client.send(HEAD.replace(b"HTTP/1.1", b"HTTP/1.0") + b"content")
        response = client.receive()
        assert response.interim == []
        assert response.content == b"content"


def test_expectation_without_content_brings_no_100(serve):
    with serve(echo).connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\nExpect: 100-continue\r\n\r\n")
        response = client.receive()
        assert response.interim == []
        assert response.status_code == 200


def test_expectation_is_met_once_and_in_turn_after_an_earlier_response(serve):
    # Pipelined: the 100 must not stand before the response to the request ahead of it.
    released = threading.Event()

    def application(environ, start_response):
        if environ["PATH_INFO"] == "/first":
            assert released.wait(10)
        return echo(environ, start_response)

    with serve(application).connect() as client:
        client.send(b"GET /first HTTP/1.1\r\nHost: test\r\n\r\n" + HEAD)
        released.set()
        first = client.receive()
        assert first.interim == []
        assert first.content == b""
        assert client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue"
        client.send(b"content")
        assert client.receive().content == b"content"
