"""PEP 3333 "Input and Error Streams"."""

from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys

import pytest

from tests.pep3333.conftest import Calls

CONTENT = b"first line\nsecond\r\n\nfourth, without an end"


def in_one_piece(content):
    return b"Content-Length: %d\r\n\r\n" % len(content) + content


def chunked(content):
    chunks = [content[start : start + 7] for start in range(0, len(content), 7)]
    return (
        b"Transfer-Encoding: chunked\r\n\r\n"
        + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
        + b"0\r\n\r\n"
    )


#: How the content is sent and where the server keeps it.
WAYS = [
    pytest.param((in_one_piece, {}), id="length-memory"),
    pytest.param((chunked, {}), id="chunked-memory"),
    pytest.param((in_one_piece, {"request_buffer": 0}), id="length-file"),
    pytest.param((chunked, {"request_buffer": 5}), id="chunked-file"),
    pytest.param((in_one_piece, {"stream_body": True}), id="length-streamed"),
    pytest.param((chunked, {"stream_body": True}), id="chunked-streamed"),
]


@pytest.fixture(params=WAYS)
def upload(request, serve):
    """Run a function on ``wsgi.input`` in an application; return what it returns: ``upload(function)``."""
    frame, options = request.param

    def run(function, content=CONTENT):
        calls = Calls()

        def application(environ, start_response):
            calls.put(function(environ["wsgi.input"]))
            start_response("204 No Content", [])
            return []

        with serve(application, **options).connect() as client:
            client.send(b"POST / HTTP/1.1\r\nHost: test\r\n" + frame(content))
            assert client.receive().status_code == 204
        return calls.take()

    return run


def test_read_returns_all(upload):
    # "should allow read() to be called without an argument, and return the remainder"
    assert upload(lambda stream: stream.read()) == CONTENT


def test_read_without_size_after_a_part_returns_the_remainder(upload):
    assert upload(lambda stream: (stream.read(5), stream.read())) == (CONTENT[:5], CONTENT[5:])


@pytest.mark.parametrize("size", [-1, None])
def test_read_of_no_size_returns_all(upload, size):
    assert upload(lambda stream: stream.read(size)) == CONTENT


def test_read_of_size_zero_returns_nothing_and_takes_nothing(upload):
    assert upload(lambda stream: (stream.read(0), stream.read())) == (b"", CONTENT)


@pytest.mark.parametrize("size", [1, 3, 7, 40, 1000])
def test_read_of_a_size_returns_that_much_until_the_end(upload, size):
    blocks = upload(lambda stream: list(iter(lambda: stream.read(size), b"")))
    assert b"".join(blocks) == CONTENT
    assert {len(block) for block in blocks[:-1]} <= {size}


def test_read_at_the_end_returns_empty_bytes_each_time(upload):
    # "should simulate an end-of-file condition"; "should return empty bytestrings from any attempt to read"
    def read(stream):
        stream.read(len(CONTENT))
        return [stream.read(), stream.read(10), stream.readline(), stream.readlines(), list(stream), stream.read()]

    assert upload(read) == [b"", b"", b"", [], [], b""]


def test_read_past_content_length_does_not_reach_the_next_request(serve):
    # "The server is not required to read past the client's specified Content-Length"
    calls = Calls()

    def application(environ, start_response):
        calls.put((environ["PATH_INFO"], environ["wsgi.input"].read(1000)))
        start_response("204 No Content", [])
        return []

    with serve(application).connect() as client:
        client.send(
            b"POST /1 HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\nabcGET /2 HTTP/1.1\r\nHost: test\r\n\r\n"
        )
        assert client.receive().status_code == 204
        assert client.receive().status_code == 204
    assert calls.take() == ("/1", b"abc")
    assert calls.take() == ("/2", b"")


def test_read_returns_bytes(upload):
    # PEP 3333 "Unicode Issues": "values read from wsgi.input ... must be of type bytes"
    def kinds(stream):
        return [type(stream.read(1)), type(stream.readline()), *map(type, stream.readlines()), type(stream.read())]

    assert set(upload(kinds)) == {bytes}


def test_readline_returns_line_after_line(upload):
    def read(stream):
        return [stream.readline() for _ in range(6)]

    assert upload(read) == [b"first line\n", b"second\r\n", b"\n", b"fourth, without an end", b"", b""]


@pytest.mark.parametrize("size", [1, 4, 11, 100])
def test_readline_of_a_size_returns_at_most_that_much(upload, size):
    # "should support the optional 'size' argument to readline()"
    lines = upload(lambda stream: list(iter(lambda: stream.readline(size), b"")))
    assert b"".join(lines) == CONTENT
    assert all(len(line) <= size and b"\n" not in line[:-1] for line in lines)
    assert lines[0] == CONTENT[: min(size, 11)]


def test_readline_of_size_zero_returns_nothing_and_takes_nothing(upload):
    assert upload(lambda stream: (stream.readline(0), stream.readline())) == (b"", b"first line\n")


def test_readlines_returns_all_lines(upload):
    assert upload(lambda stream: stream.readlines()) == CONTENT.splitlines(keepends=True)


@pytest.mark.parametrize("hint", [1, 12, 1000, 0, -1, None])
def test_readlines_with_a_hint_loses_nothing(upload, hint):
    # "the hint argument to readlines() is optional for both caller and implementer"
    lines, rest = upload(lambda stream: (stream.readlines(hint), stream.read()))
    assert b"".join(lines) + rest == CONTENT
    assert lines == CONTENT.splitlines(keepends=True)[: len(lines)]


def test_readlines_with_a_hint_stops_after_it(upload):
    lines, rest = upload(lambda stream: (stream.readlines(12), stream.read()))
    assert lines == [b"first line\n", b"second\r\n"]
    assert rest == b"\nfourth, without an end"


def test_iteration_returns_line_after_line(upload):
    assert upload(list) == CONTENT.splitlines(keepends=True)


def test_iteration_continues_where_a_read_left_off(upload):
    assert upload(lambda stream: (stream.read(6), next(iter(stream)), stream.readline(), list(stream))) == (
        b"first ",
        b"line\n",
        b"second\r\n",
        [b"\n", b"fourth, without an end"],
    )


@pytest.mark.parametrize("content", [b"\n", b"\r", b"\0", b"x" * 100_000, b"\n" * 1000, bytes(range(256))])
def test_content_of_any_bytes_is_read_as_sent(upload, content):
    assert upload(lambda stream: stream.read(), content) == content
    assert upload(lambda stream: b"".join(stream), content) == content


def test_content_that_is_empty_is_at_its_end_at_once(upload):
    assert upload(lambda stream: (stream.read(), stream.readline(), list(stream)), b"") == (b"", b"", [])


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE"])
def test_request_without_content_has_an_input_at_its_end(serve, method):
    calls = Calls()

    def application(environ, start_response):
        stream = environ["wsgi.input"]
        calls.put((stream.read(), stream.read(5), stream.readline(), stream.readlines(), list(stream)))
        start_response("204 No Content", [])
        return []

    with serve(application).connect() as client:
        assert client.get(method=method).status_code == 204
    assert calls.take() == (b"", b"", b"", [], [])


BUFFERED_WAYS = WAYS[:4]


@pytest.mark.parametrize("way", BUFFERED_WAYS)
@pytest.mark.parametrize("read_size", [0, 10], ids=["nothing", "a part"])
def test_content_left_unread_does_not_become_the_next_request(serve, way, read_size):
    # The content looks like requests, which must never be answered.
    frame, options = way
    calls = Calls()

    def application(environ, start_response):
        calls.put((environ["PATH_INFO"], environ["wsgi.input"].read(read_size)))
        start_response("200 OK", [])
        return [environ["PATH_INFO"].encode()]

    content = b"GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n" * 50
    with serve(application, **options).connect() as client:
        client.send(
            (b"POST /first HTTP/1.1\r\nHost: test\r\n" + frame(content)) * 2
            + b"GET /last HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"
        )
        assert client.receive().content == b"/first"
        assert client.receive().content == b"/first"
        assert client.receive().content == b"/last"
        assert client.at_end()
    assert [calls.take()[0] for _ in range(3)] == ["/first", "/first", "/last"]


@pytest.mark.parametrize("frame", [in_one_piece, chunked])
@pytest.mark.parametrize("arrives", ["before", "after"])
def test_content_streamed_and_left_unread_does_not_become_the_next_request(serve, frame, arrives):
    # The connection may end with the response, but what was content is never taken for a request.
    calls = Calls()

    def application(environ, start_response):
        calls.put(environ["PATH_INFO"])
        start_response("200 OK", [("Content-Length", "8")])
        return [b"answered"]

    data = frame(b"GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n" * 50)
    cut = len(data) if arrives == "before" else data.index(b"GET")
    server = serve(application, stream_body=True)
    with server.connect() as client:
        client.send(b"POST /first HTTP/1.1\r\nHost: test\r\n" + data[:cut])
        assert client.receive().content == b"answered"
        with contextlib.suppress(ConnectionError):
            client.send(data[cut:] + b"GET /last HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
            client.read_all()
    server.stop()
    paths = [calls.take() for _ in range(calls.qsize())]
    assert paths in (["/first"], ["/first", "/last"])


def test_content_left_unread_by_a_failing_application_does_not_become_the_next_request(serve, error_log):
    def application(environ, start_response):
        if environ["PATH_INFO"] == "/fails":
            raise RuntimeError("before it has read anything")
        start_response("200 OK", [])
        return [environ["PATH_INFO"].encode()]

    with serve(application).connect() as client:
        client.send(
            b"POST /fails HTTP/1.1\r\nHost: test\r\n" + in_one_piece(b"GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n")
        )
        assert client.receive().status_code == 500
        assert client.read_all() == b""


def test_chunked_content_comes_with_its_length_and_without_its_coding(serve):
    # PEP 3333 "Other HTTP Features": "decoding any inbound Transfer-Encoding, including chunked encoding"
    calls = Calls()

    def application(environ, start_response):
        calls.put(environ.copy())
        calls.put(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
        start_response("204 No Content", [])
        return []

    with serve(application).connect() as client:
        for content in (CONTENT, b""):
            client.send(b"POST / HTTP/1.1\r\nHost: test\r\n" + chunked(content))
            assert client.receive().status_code == 204
            environ = calls.take()
            assert environ["CONTENT_LENGTH"] == str(len(content))
            assert "HTTP_TRANSFER_ENCODING" not in environ
            assert calls.take() == content


def test_chunked_content_that_is_streamed_comes_without_a_length(serve):
    # Nobody knows it yet; wsgi.input_terminated says that reading to the end is safe.
    calls = Calls()

    def application(environ, start_response):
        calls.put(environ.copy())
        calls.put(environ["wsgi.input"].read())
        start_response("204 No Content", [])
        return []

    with serve(application, stream_body=True).connect() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")
        environ = calls.take()
        client.send(b"7\r\ncontent\r\n0\r\n\r\n")
        assert client.receive().status_code == 204
    assert "CONTENT_LENGTH" not in environ
    assert "HTTP_TRANSFER_ENCODING" not in environ
    assert environ["wsgi.input_terminated"] is True
    assert calls.take() == b"content"


def test_input_of_two_requests_is_not_shared(serve):
    calls = Calls()

    def application(environ, start_response):
        calls.put(environ["wsgi.input"].readline())
        start_response("204 No Content", [])
        return []

    with serve(application).connect() as client:
        for line in (b"one\n", b"two\n"):
            client.post(line + b"left unread")
    assert calls.take() == b"one\n"
    assert calls.take() == b"two\n"


def test_content_may_be_read_while_the_response_is_under_way(serve):
    # An echo that answers block by block: nothing says that all is read before start_response.
    def application(environ, start_response):
        start_response("200 OK", [])
        for line in environ["wsgi.input"]:
            yield line.upper()

    with serve(application).connect() as client:
        assert client.post(CONTENT).content == CONTENT.upper()
        assert client.post(b"again").content == b"AGAIN"


def written_to_errors(serve, capfd, function):
    def application(environ, start_response):
        function(environ["wsgi.errors"])
        start_response("204 No Content", [])
        return []

    with serve(application).connect() as client:
        assert client.get().status_code == 204
    return capfd.readouterr().err


def test_errors_write_and_flush_reach_standard_error(serve, capfd):
    def complain(errors):
        errors.write("first\n")
        errors.flush()
        errors.write("second\n")
        errors.flush()

    assert written_to_errors(serve, capfd, complain) == "first\nsecond\n"


def test_errors_writelines_takes_any_iterable(serve, capfd):
    def complain(errors):
        errors.writelines(["first\n", "second\n"])
        errors.writelines(line for line in itertools.repeat("again\n", 2))
        errors.flush()

    assert written_to_errors(serve, capfd, complain) == "first\nsecond\nagain\nagain\n"


def test_errors_print_works_on_it(serve, capfd):
    # It is a text stream: '"text mode" stream; i.e., applications should use "\n" as a line ending'
    assert written_to_errors(serve, capfd, lambda errors: print("printed", 1, file=errors, flush=True)) == "printed 1\n"


ANY_TEXT_SCRIPT = """
import sys
from aiowsgi.semantics import ConnectionInfo, RequestHead
from aiowsgi.wsgi.environ import base_environ, build_environ, endpoint_environ

base = base_environ(software="test", root_path="", multithread=True, multiprocess=False)
head = RequestHead("GET", "/", "/", "", "1.1", {}, 0, True, False)
connection = ConnectionInfo("http", "", "", "", "")
environ = build_environ(endpoint_environ(base, connection), connection, head, None, None)
errors = environ["wsgi.errors"]
errors.write("caf\\xe9 \\u65e5\\u672c \\U0001f389 \\ud800 \\0\\n")
errors.writelines(["one\\n", "two\\n"])
errors.flush()
print("accepted")
"""


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_errors_accepts_any_text_whatever_the_encoding_of_standard_error(encoding):
    # "should accept and log arbitrary unicode without raising an error"
    result = subprocess.run(
        [sys.executable, "-c", ANY_TEXT_SCRIPT],
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        timeout=20,
    )
    assert result.stdout == b"accepted\n", result.stderr
    assert b"one" in result.stderr


def test_errors_of_a_process_without_standard_error_accepts_any_text():
    # "The methods listed in the table above must be supported": where sys.stderr is None as well
    result = subprocess.run(
        [sys.executable, "-c", "import sys; sys.stderr = None" + ANY_TEXT_SCRIPT], stdout=subprocess.PIPE, timeout=20
    )
    assert result.stdout == b"accepted\n"
