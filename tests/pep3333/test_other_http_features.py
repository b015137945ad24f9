"""PEP 3333 "Other HTTP Features": the server plays dumb, and keeps the connection to itself."""

from __future__ import annotations

import pytest

from tests.pep3333.conftest import Calls, returning


def as_generator(status, headers, blocks):
    def application(environ, start_response):
        start_response(status, list(headers))
        yield from blocks

    return application


def as_list(status, headers, blocks):
    return returning(list(blocks), status, list(headers))


def as_write(status, headers, blocks):
    def application(environ, start_response):
        write = start_response(status, list(headers))
        for block in blocks:
            write(block)
        return []

    return application


SHAPES = [as_generator, as_list, as_write]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("headers", [[], [("Content-Length", "7")]], ids=["no length", "length"])
@pytest.mark.parametrize("blocks", [[b"content"], [b"con", b"tent"]], ids=["one", "two"])
def test_head_gets_the_head_of_get_and_no_content(serve, shape, headers, blocks):
    with serve(shape("200 OK", [("X-Own", "1"), *headers], blocks)).connect() as client:
        got = client.get()
        for _ in range(2):
            client.send(b"HEAD / HTTP/1.1\r\nHost: test\r\n\r\n")
            response = client.receive("HEAD")
            assert response.status_line == got.status_line
            assert response.values("X-Own") == ["1"]
            assert response.values("Transfer-Encoding") == []
            # RFC 9110 §8.6: not sent, or what GET would have been told.
            assert response.value("Content-Length") in (None, got.value("Content-Length"))
            if headers:
                assert response.value("Content-Length") == "7"
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        assert client.receive().content == b"content"
        assert client.at_end()


@pytest.mark.parametrize("body", [[], [b""], iter([])], ids=["[]", "empty block", "iterator"])
def test_head_answered_without_content_is_not_told_a_length_of_zero(serve, body):
    # The application has left the content out itself: what GET would have had is not known.
    with serve(returning(body)).connect() as client:
        assert client.get(method="HEAD").value("Content-Length") is None


def test_head_answered_by_a_list_is_told_its_length(serve):
    with serve(returning([b"con", b"tent"])).connect() as client:
        assert client.get(method="HEAD").value("Content-Length") == "7"


def test_head_keeps_the_length_that_the_application_declares(serve):
    with serve(returning([], headers=[("Content-Length", "12345")])).connect() as client:
        assert client.get(method="HEAD").value("Content-Length") == "12345"
        assert client.get(method="HEAD").value("Content-Length") == "12345"


def test_head_asks_a_generator_for_no_more_than_its_first_block(serve):
    # What would be made for nobody is not made.
    calls = Calls()

    def application(environ, start_response):
        start_response("200 OK", [])
        for number in range(3):
            calls.put(number)
            yield b"block"

    server = serve(application)
    with server.connect() as client:
        client.get(method="HEAD")
    server.stop()
    assert calls.take() == 0
    assert calls.empty()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("blocks", [[], [b"content"], [b"con", b"tent"]], ids=["none", "one", "two"])
@pytest.mark.parametrize("status", ["204 No Content", "205 Reset Content", "304 Not Modified"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_status_without_content_sends_none_whatever_is_yielded(serve, shape, blocks, status, method):
    # RFC 9110 §15.3.5, §15.3.6, §15.4.5
    with serve(shape(status, [("X-Own", "1")], blocks)).connect() as client:
        for _ in range(3):
            client.send(f"{method} / HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            response = client.receive(method)
            assert response.status_line == f"HTTP/1.1 {status}".encode()
            assert response.values("X-Own") == ["1"]
            assert response.values("Transfer-Encoding") == []
            assert response.content == b""
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        assert client.receive().content == b""
        assert client.at_end()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("status", "length"), [("204 No Content", None), ("205 Reset Content", "0"), ("304 Not Modified", "7")]
)
def test_status_without_content_has_the_content_length_of_its_rfc(serve, shape, status, length):
    # RFC 9110 §8.6: MUST NOT in a 204; §15.3.6: a 205 has zero; a 304 may say what a 200 would have had.
    with serve(shape(status, [("Content-Length", "7")], [b"content"])).connect() as client:
        for _ in range(2):
            assert client.get().value("Content-Length") == length


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_status_without_content_keeps_the_connection_that_the_client_keeps(serve, version):
    with serve(as_generator("304 Not Modified", [], [])).connect() as client:
        for _ in range(2):
            client.send(f"GET / HTTP/{version}\r\nHost: test\r\nConnection: keep-alive\r\n\r\n".encode())
            assert client.receive().status_code == 304


def test_conditional_request_is_the_applications_own_business(serve):
    # "the application should perform its own cache validation"
    with serve(returning([b"content"], headers=[("ETag", '"x"')])).connect() as client:
        response = client.get("/", 'If-None-Match: "x"', "Range: bytes=0-1")
        assert response.status_code == 200
        assert response.content == b"content"


def test_content_coding_is_the_applications_own_business(serve):
    with serve(returning([b"content"], headers=[("Content-Encoding", "gzip")])).connect() as client:
        response = client.get("/", "Accept-Encoding: gzip")
        assert response.values("Content-Encoding") == ["gzip"]
        assert response.content == b"content"
    with serve(returning([b"content"])).connect() as client:
        assert client.get("/", "Accept-Encoding: gzip").values("Content-Encoding") == []


@pytest.mark.parametrize("name", ["Content-Type", "Vary", "Cache-Control", "Last-Modified", "Via", "X-Powered-By"])
def test_field_that_the_application_did_not_send_is_not_invented(serve, name):
    # "They should only make changes that do not alter the effective semantics"
    with serve(returning([b"content"], headers=[])).connect() as client:
        assert client.get().values(name) == []


def test_fields_of_a_plain_response_are_date_and_content_length_only(serve):
    with serve(returning([b"content"], headers=[])).connect() as client:
        assert sorted(name for name, _ in client.get().fields) == ["Content-Length", "Date"]


def test_connection_close_of_the_client_is_handled_by_the_server(serve):
    # 'must handle any supported inbound "hop-by-hop" headers on their own'
    with serve(returning([b"content"])).connect() as client:
        response = client.get("/", "Connection: close")
        assert response.value("Connection") == "close"
        assert response.content == b"content"
        assert client.at_end()


def test_connection_of_http_1_0_is_kept_on_request_only(serve):
    server = serve(returning([b"content"]))
    with server.connect() as client:
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        assert client.receive().content == b"content"
        assert client.at_end()
    with server.connect() as client:
        for _ in range(2):
            client.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            response = client.receive()
            assert response.value("Connection") == "keep-alive"
            assert response.content == b"content"


@pytest.mark.parametrize("status", ["200 OK", "301 Moved", "404 Not Found", "500 Oops", "599 x", "299 x"])
def test_status_of_any_class_keeps_the_connection(serve, status):
    # An error page of the application is an answer like any other.
    with serve(returning([b"content"], status)).connect() as client:
        for _ in range(2):
            assert client.get().content == b"content"
