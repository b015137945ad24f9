"""PEP 3333 "Error Handling"; what an application does wrong by itself is in ``tests/apps``."""

from __future__ import annotations

import logging
import sys

import pytest

from tests.raw import Truncated


class Trouble(Exception):
    """Raised on purpose by an application under test."""


def test_error_page_of_the_application_before_any_output_is_sent(serve, error_log):
    # "If no output has been written when an exception occurs, the call to start_response will return normally"
    def application(environ, start_response):
        try:
            start_response("200 Froody", [("Content-Type", "text/plain")])
            raise Trouble
        except Trouble:
            start_response("500 Oops", [("Content-Type", "text/html")], sys.exc_info())
            return [b"error body goes here"]

    with serve(application).connect() as client:
        for _ in range(2):
            response = client.get()
            assert response.status_line == b"HTTP/1.1 500 Oops"
            assert response.values("Content-Type") == ["text/html"]
            assert response.content == b"error body goes here"
    assert error_log.records == []  # the application has dealt with it


def test_error_page_of_the_application_after_output_aborts_it(serve, error_log):
    # "start_response will reraise the provided exception"; "trap this (fatal) exception and abort the response"
    def application(environ, start_response):
        start_response("200 Froody", [])
        try:
            yield b"first"
            raise Trouble("midway")
        except Trouble:
            start_response("500 Oops", [], sys.exc_info())
        yield b"error body goes here"

    with serve(application).connect() as client, pytest.raises(Truncated) as caught:
        client.get()
    assert b"error body" not in caught.value.args[0]
    (record,) = error_log.records
    assert "Trouble: midway" in record.getMessage()


@pytest.mark.parametrize("when", ["call", "first step"])
def test_error_before_any_output_is_500_and_logged_with_its_traceback(serve, error_log, when):
    # "should trap and log any exception that aborts an application or the iteration of its return value"
    def application(environ, start_response):
        if when == "call":
            raise Trouble("at once")
        return steps(start_response)

    def steps(start_response):
        start_response("200 OK", [])
        raise Trouble("at once")
        yield

    server = serve(application)
    with server.connect() as client:
        client.send(b"GET /path?query HTTP/1.1\r\nHost: test\r\n\r\n")
        response = client.receive()
        assert response.status_code == 500
        assert b"Trouble" not in response.content
        assert client.at_end()  # what the application left of the request is not looked at
    (record,) = error_log.records
    assert record.name == "aiowsgi.error"
    assert record.levelname == "ERROR"
    assert record.exc_info[0] is Trouble
    assert "GET /path?query" in record.getMessage()
    assert "Trouble: at once" in record.getMessage()
    assert record.exc_info[2].tb_next is not None


def test_error_of_one_request_leaves_other_connections_alone(serve, error_log):
    def application(environ, start_response):
        if environ["PATH_INFO"] == "/fails":
            raise Trouble
        start_response("200 OK", [])
        return [b"well"]

    server = serve(application)
    with server.connect() as client, server.connect() as other:
        assert other.get().content == b"well"
        assert client.get("/fails").status_code == 500
        assert other.get().content == b"well"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("length", [None, 100], ids=["no length", "length"])
def test_error_after_output_ends_the_connection_so_that_the_client_sees_it(serve, error_log, version, length):
    def application(environ, start_response):
        start_response("200 OK", [] if length is None else [("Content-Length", str(length))])
        yield b"first"
        raise Trouble

    with serve(application).connect() as client:
        client.send(f"GET / HTTP/{version}\r\nHost: test\r\n\r\n".encode())
        with pytest.raises((Truncated, ConnectionResetError)):
            client.receive()


def test_error_in_the_only_thread_leaves_it_to_the_next_request(serve, error_log):
    def application(environ, start_response):
        if environ["PATH_INFO"] != "/":
            raise {"/exit": SystemExit, "/interrupt": KeyboardInterrupt, "/error": Trouble}[environ["PATH_INFO"]]
        start_response("200 OK", [])
        return [b"well"]

    server = serve(application, threads=1, max_threads=1)
    for path in ("/error", "/exit", "/interrupt"):
        with server.connect() as client:
            assert client.get(path).status_code == 500
        with server.connect() as client:
            assert client.get("/").content == b"well"
    assert len(error_log.records) == 3


class Untold(Exception):
    def __str__(self):
        raise SystemExit("on purpose")


def test_error_whose_text_raises_anything_is_500(serve):
    def application(environ, start_response):
        raise Untold

    with serve(application, threads=1, max_threads=1).connect() as client:
        assert client.get().status_code == 500


def test_error_that_a_log_handler_answers_with_anything_is_500(serve, request):
    class Leaving(logging.Handler):
        def emit(self, record):
            raise SystemExit("on purpose")

    handler = Leaving()
    logging.getLogger("aiowsgi.error").addHandler(handler)
    request.addfinalizer(lambda: logging.getLogger("aiowsgi.error").removeHandler(handler))

    def application(environ, start_response):
        raise Trouble

    with serve(application, threads=1, max_threads=1).connect() as client:
        assert client.get().status_code == 500


def test_error_of_the_middleware_kind_is_logged_once(serve, error_log):
    # An exception raised from another is one failure.
    def application(environ, start_response):
        try:
            raise Trouble("the cause")
        except Trouble as error:
            raise RuntimeError("the consequence") from error

    with serve(application).connect() as client:
        assert client.get().status_code == 500
    (record,) = error_log.records
    assert "RuntimeError: the consequence" in record.getMessage()
    assert isinstance(record.exc_info[1].__cause__, Trouble)
