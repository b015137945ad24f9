"""``wsgiref.validate.validator`` around well-behaved applications: it checks the server as much as the application.

It asserts the environ's types, the streams' methods, how ``start_response`` and ``write`` are called and what they
return, that iteration stops at the end, and that ``close()`` is called.
"""

from __future__ import annotations

import sys
from wsgiref.validate import validator

import pytest

TEXT = [("Content-Type", "text/plain")]


def answer_list(environ, start_response):
    start_response("200 OK", list(TEXT))
    return [b"one,", b"two"]


def answer_with_length(environ, start_response):
    start_response("200 OK", [*TEXT, ("Content-Length", "7")])
    return [b"one,two"]


def answer_generator(environ, start_response):
    start_response("200 OK", list(TEXT))
    return (block for block in (b"one,", b"", b"two"))


def answer_write(environ, start_response):
    write = start_response("200 OK", list(TEXT))
    write(b"one,")
    write(b"two")
    return []


def answer_write_and_yield(environ, start_response):
    start_response("200 OK", list(TEXT))(b"one,")
    return iter([b"two"])


def answer_error_page(environ, start_response):
    try:
        raise RuntimeError("trapped")
    except RuntimeError:
        start_response("500 Oops", list(TEXT), sys.exc_info())
    return [b"one,two"]


def echo_read(environ, start_response):
    content = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start_response("200 OK", list(TEXT))
    return [content]


def echo_blocks(environ, start_response):
    start_response("200 OK", list(TEXT))
    stream = environ["wsgi.input"]
    return [stream.read(3), *iter(lambda: stream.read(3), b"")]


def echo_readline(environ, start_response):
    start_response("200 OK", list(TEXT))
    stream = environ["wsgi.input"]
    return [stream.readline(), stream.readline(2), *stream.readlines(1), *stream.readlines()]


def echo_iteration(environ, start_response):
    start_response("200 OK", list(TEXT))
    return list(environ["wsgi.input"])


def complain(environ, start_response):
    environ["wsgi.errors"].write("")
    environ["wsgi.errors"].writelines(["", ""])
    environ["wsgi.errors"].flush()
    start_response("200 OK", list(TEXT))
    return [b"one,two"]


def wrap_file(environ, start_response):
    file = open(__file__, "rb")  # noqa: SIM115 - the server closes it
    start_response("200 OK", list(TEXT))
    return environ["wsgi.file_wrapper"](file, 100)


def served(serve, error_log, application, request, method="GET"):
    """Answer a request twice on one connection; assert that nothing was complained of."""
    server = serve(validator(application))
    with server.connect() as client:
        for _ in range(2):
            client.send(request)
            response = client.receive(method)
    server.stop()
    assert error_log.records == []
    return response


@pytest.mark.parametrize(
    "application",
    [
        answer_list,
        answer_with_length,
        answer_generator,
        answer_write,
        answer_write_and_yield,
        answer_error_page,
        complain,
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE"])
def test_validator_around_an_answer_finds_nothing(serve, error_log, application, method):
    request = f"{method} /path?query=1 HTTP/1.1\r\nHost: test\r\nX-Field: x\r\n\r\n".encode()
    response = served(serve, error_log, application, request, method)
    assert response.status_code == (500 if application is answer_error_page else 200)
    assert response.content == (b"" if method == "HEAD" else b"one,two")


@pytest.mark.parametrize("application", [echo_read, echo_blocks, echo_readline, echo_iteration])
@pytest.mark.parametrize("content", [b"line 1\nline 2\n\nline 4", b"x" * 10_000, b""], ids=["lines", "long", "empty"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_validator_around_an_echo_finds_nothing(serve, error_log, application, content, framing):
    request = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Type: text/plain\r\n"
    if framing == "length":
        request += b"Content-Length: %d\r\n\r\n%b" % (len(content), content)
    else:
        chunk = b"%x\r\n%b\r\n" % (len(content), content) if content else b""
        request += b"Transfer-Encoding: chunked\r\n\r\n" + chunk + b"0\r\n\r\n"
    assert served(serve, error_log, application, request, "POST").content == content


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_validator_around_a_file_finds_nothing(serve, error_log, method):
    response = served(serve, error_log, wrap_file, f"{method} / HTTP/1.1\r\nHost: test\r\n\r\n".encode(), method)
    with open(__file__, "rb") as file:
        assert response.content == (b"" if method == "HEAD" else file.read())


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_validator_around_a_response_without_content_finds_nothing(serve, error_log, status):
    def application(environ, start_response):
        start_response(status, [])
        return []

    request = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    assert served(serve, error_log, application, request).status_line == f"HTTP/1.1 {status}".encode()


def test_validator_under_a_root_path_finds_nothing(serve, error_log):
    server = serve(validator(answer_list), root_path="/mount")
    with server.connect() as client:
        assert client.get("/mount/a").content == b"one,two"
        assert client.get("/mount").content == b"one,two"
    assert error_log.records == []


def test_validator_around_a_faulty_application_is_heard(serve, error_log):
    """The other tests here prove something: a complaint would be logged."""

    def application(environ, start_response):
        start_response("200 OK", [])  # no Content-Type
        return [b"content"]

    with serve(validator(application)).connect() as client:
        assert client.get().status_code == 500
    (record,) = error_log.records
    assert record.exc_info[0] is AssertionError
