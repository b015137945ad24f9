"""PEP 3333 "The ``start_response()`` Callable".

The refusals that end in a 500 are in ``tests/apps``, one application for each.
"""

from __future__ import annotations

import contextlib
import email.utils
import gc
import re
import sys
import weakref

import pytest

from aiowsgi.errors import ApplicationError
from aiowsgi.wsgi.response import Response
from tests.pep3333.conftest import Calls, returning
from tests.raw import Truncated
from tests.wsgi.sink import RecordingSink

#: RFC 2616 §13.5.1, with "Trailers" as it stands there and "Trailer" as it was meant.
HOP_BY_HOP = [
    "Connection",
    "Keep-Alive",
    "Proxy-Authenticate",
    "Proxy-Authorization",
    "TE",
    "Trailer",
    "Trailers",
    "Transfer-Encoding",
    "Upgrade",
]


class Refused(Exception):
    """Raised on purpose by an application under test."""


def application_error(function):
    """Serve as an application that reports the error which ``function(start_response)`` meets, in the application."""
    calls = Calls()

    def application(environ, start_response):
        try:
            function(start_response)
        except Exception as error:
            calls.put(error)
            start_response("200 OK", [], sys.exc_info())
            return [b"handled"]
        calls.put(None)
        return [b"went on"]

    return application, calls


# Status.


@pytest.mark.parametrize(
    "status",
    [
        "200 OK",
        "404 Not Found",
        "418 I'm a teapot",
        "999 Message here",
        "299 x",
        "200 ",
        "500 caf\xe9",
        "503 a  b",
        "400 (;,:\"'=/!~[]{}|\\^`<>?@#$%&*+-._)",
    ],
)
def test_status_reaches_the_client_as_it_is(serve, status):
    # "a string consisting of a Status-Code and a Reason-Phrase, in that order and separated by a single space"
    with serve(returning([b"content"], status)).connect() as client:
        response = client.get()
        assert response.status_line == b"HTTP/1.1 " + status.encode("latin-1")
        assert response.content == b"content"


# Fields.


def test_fields_reach_the_client_in_order_and_in_their_own_case(serve):
    # PEP 3333 "Other HTTP Features": "allow the application complete control over its output"
    fields = [
        ("X-B", "2"),
        ("x-a", "1"),
        ("Set-Cookie", "a=1; Path=/"),
        ("X-b", "3"),
        ("Set-Cookie", "b=2"),
        ("CONTENT-type", "text/plain; charset=x"),
        ("X-Empty", ""),
        ("X-Raw", "caf\xe9 \xff"),
        ("X-Spaces", "a  b"),
    ]
    with serve(returning([b"content"], headers=fields)).connect() as client:
        assert client.get().fields[: len(fields)] == fields


def test_date_is_added_where_the_application_sends_none(serve):
    # "if the application omits a header required by HTTP ... the server or gateway must add it"
    with serve(returning([b"content"])).connect() as client:
        date = client.get().value("Date")
    assert re.fullmatch(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT", date)
    assert email.utils.parsedate_to_datetime(date).year > 2000


@pytest.mark.parametrize("name", ["Date", "date", "DATE", "dAtE"])
def test_date_of_the_application_is_the_only_one(serve, name):
    # "HTTP header names are case-insensitive, so be sure to take that into consideration"
    own = "Tue, 15 Nov 1994 08:12:31 GMT"
    with serve(returning([b"content"], headers=[(name, own)])).connect() as client:
        assert client.get().values("Date") == [own]


def test_server_is_added_where_the_option_says_so_and_the_application_sends_none(serve):
    with serve(returning([b"content"]), server_header=True).connect() as client:
        assert client.get().values("Server") == ["aiowsgi"]


@pytest.mark.parametrize("name", ["Server", "server", "SERVER"])
def test_server_of_the_application_is_the_only_one(serve, name):
    with serve(returning([b"content"], headers=[(name, "own/1")]), server_header=True).connect() as client:
        assert client.get().values("Server") == ["own/1"]


def test_server_is_not_added_by_default(serve):
    with serve(returning([b"content"])).connect() as client:
        assert client.get().values("Server") == []


def test_field_that_only_resembles_date_or_server_replaces_neither(serve):
    with serve(returning([b""], headers=[("Data", "1"), ("Served", "2")]), server_header=True).connect() as client:
        response = client.get()
        assert len(response.values("Date")) == 1
        assert response.values("Server") == ["aiowsgi"]
        assert response.values("Data") == ["1"]
        assert response.values("Served") == ["2"]


@pytest.mark.parametrize("name", ["content-length", "CONTENT-LENGTH", "Content-length"])
def test_content_length_of_the_application_in_any_case_is_the_only_one(serve, name):
    with serve(returning([b"content"], headers=[(name, "7")])).connect() as client:
        response = client.get()
        assert response.values("Content-Length") == ["7"]
        assert response.content == b"content"


def test_list_of_fields_changed_after_the_call_changes_nothing(serve):
    # "it must store them": what was checked is what is sent.
    def application(environ, start_response):
        headers = [("X-Kept", "as it was"), ("Content-Length", "7")]
        start_response("200 OK", headers)
        headers[0] = ("X-Kept", "changed\r\nX-Injected: yes")
        headers[1] = ("Content-Length", "1")
        headers.append(("X-Late", "too late"))
        yield b"con"
        headers.clear()
        yield b"tent"

    with serve(application).connect() as client:
        response = client.get()
        assert response.value("X-Kept") == "as it was"
        assert response.values("X-Injected") == response.values("X-Late") == []
        assert response.content == b"content"


def test_list_of_fields_belongs_to_the_application_and_is_not_changed(serve):
    # The server may change it, and does not: frameworks keep such lists at module level.
    headers = [("Content-Type", "text/plain"), ("Content-Length", "7")]
    with serve(returning([b"content"], headers=headers)).connect() as client:
        client.get()
        client.get()
    assert headers == [("Content-Type", "text/plain"), ("Content-Length", "7")]


# Errors are raised while the application runs.


@pytest.mark.parametrize("name", HOP_BY_HOP)
@pytest.mark.parametrize("case", [str, str.lower, str.upper], ids=["usual", "lower", "upper"])
def test_hop_by_hop_field_is_refused_in_the_application(name, case):
    # "should consider it a fatal error ... and raise an error if they are supplied to start_response()"
    response = Response("GET", RecordingSink())
    with pytest.raises(ApplicationError, match="hop-by-hop"):
        response.start_response("200 OK", [("X-Before", "1"), (case(name), "x")])


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        ("200", []),
        ("200 OK\r\n", []),
        ("200 OK", [("X", "a\nb")]),
        ("200 OK", [("X Y", "a")]),
        ("200 OK", [("X", b"a")]),
        ("200 OK", ()),
    ],
    ids=["status", "line end in status", "line end in value", "name", "bytes", "tuple"],
)
def test_error_in_status_or_fields_is_raised_in_the_application(serve, status, headers):
    # "should check for errors in the headers at the time start_response is called"
    application, calls = application_error(lambda start_response: start_response(status, headers))
    with serve(application).connect() as client:
        assert client.get().content == b"handled"
    assert isinstance(calls.take(), ApplicationError)


# Called again.


def test_second_call_without_exc_info_raises_in_the_application(serve):
    # "a fatal error to call start_response without the exc_info argument if start_response has already been called"
    def twice(start_response):
        start_response("200 OK", [])
        start_response("200 OK", [])

    application, calls = application_error(twice)
    with serve(application).connect() as client:
        assert client.get().content == b"handled"
    assert "again without exc_info" in str(calls.take())


def test_second_call_after_a_first_that_was_refused_raises_in_the_application(serve, error_log):
    # "This includes the case where the first call to start_response raised an error."
    calls = Calls()

    def application(environ, start_response):
        with pytest.raises(ApplicationError, match="status"):
            start_response("nonsense", [])
        try:
            start_response("200 OK", [])
        except ApplicationError as error:
            calls.put(str(error))
            raise
        return [b"went on"]

    with serve(application).connect() as client:
        assert client.get().status_code == 500
    assert "again without exc_info" in calls.take()


def test_second_call_with_exc_info_replaces_status_and_fields(serve):
    # "should replace the currently-stored HTTP response headers with the newly-supplied ones"
    def application(environ, start_response):
        start_response("200 OK", [("X-First", "1"), ("Content-Length", "1")])
        try:
            raise Refused
        except Refused:
            start_response("500 Oops", [("X-Second", "2")], sys.exc_info())
        return [b"an error page"]

    with serve(application).connect() as client:
        response = client.get()
        assert response.status_line == b"HTTP/1.1 500 Oops"
        assert response.values("X-First") == []
        assert response.values("X-Second") == ["2"]
        assert response.values("Content-Length") == ["13"]
        assert response.content == b"an error page"


def test_first_call_with_exc_info_is_accepted(serve):
    def application(environ, start_response):
        try:
            raise Refused
        except Refused:
            start_response("500 Oops", [], sys.exc_info())
        return [b"an error page"]

    with serve(application).connect() as client:
        assert client.get().status_line == b"HTTP/1.1 500 Oops"


@pytest.mark.parametrize("block", [b"", None], ids=["after an empty block", "before any block"])
def test_call_with_exc_info_in_a_generator_before_content_replaces_the_head(serve, block):
    # "transmit only after the first iteration ... that yields a non-empty bytestring"
    def application(environ, start_response):
        start_response("200 OK", [])
        if block is not None:
            yield block
        try:
            raise Refused
        except Refused:
            start_response("500 Oops", [], sys.exc_info())
        yield b"an error page"

    with serve(application).connect() as client:
        response = client.get()
        assert response.status_line == b"HTTP/1.1 500 Oops"
        assert response.content == b"an error page"


def test_call_with_exc_info_after_write_of_nothing_replaces_the_head(serve):
    # "response headers must not be sent until there is actual body data available"
    def application(environ, start_response):
        write = start_response("200 OK", [])
        write(b"")
        try:
            raise Refused
        except Refused:
            write = start_response("500 Oops", [], sys.exc_info())
        write(b"an error page")
        return []

    with serve(application).connect() as client:
        response = client.get()
        assert response.status_line == b"HTTP/1.1 500 Oops"
        assert response.content == b"an error page"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("how", ["generator", "write"])
def test_call_with_exc_info_after_content_raises_that_exception_in_the_application(serve, error_log, how, method):
    # "must raise an error, and should re-raise using the exc_info tuple"
    calls = Calls()

    def fail(start_response):
        error = Refused("trapped by the application")
        try:
            try:
                raise error
            except Refused:
                start_response("500 Oops", [("X-Second", "2")], sys.exc_info())
        except Refused as raised:
            names = []
            traceback = raised.__traceback__
            while traceback is not None:
                names.append(traceback.tb_frame.f_code.co_name)
                traceback = traceback.tb_next
            calls.put((raised is error, names))
            raise

    def application(environ, start_response):
        write = start_response("200 OK", [])
        if how == "write":
            write(b"first")
            fail(start_response)
            return []
        return generator(start_response)

    def generator(start_response):
        yield b"first"
        fail(start_response)
        yield b"never"

    with serve(application).connect() as client:
        client.send(f"{method} / HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        if how == "generator" and method == "HEAD":
            assert client.receive("HEAD").status_code == 200
            return  # nothing is iterated for a HEAD
        if method == "HEAD":
            assert client.receive("HEAD").status_code == 200
        else:
            with pytest.raises(Truncated):
                client.receive()
    is_same, names = calls.take()
    assert is_same
    assert "start_response" in names  # raised in the application's call, with the traceback that it gave
    assert names.count("fail") == 2


def test_call_with_an_empty_exc_info_after_content_raises(serve, error_log):
    # "if exc_info is provided, and the HTTP headers have already been sent, start_response must raise an error"
    def application(environ, start_response):
        start_response("200 OK", [])
        yield b"first"
        start_response("500 Oops", [], (None, None, None))
        yield b"never"

    with serve(application).connect() as client, pytest.raises(Truncated) as caught:
        client.get()
    assert b"never" not in caught.value.args[0]


@pytest.fixture
def reference_counts_only():
    """Turn the collector off: what is kept by a cycle stays."""
    gc.disable()
    yield
    gc.enable()


def test_exc_info_is_not_kept_after_the_call(reference_counts_only):
    # "should ensure that no reference is held to the exc_info parameter beyond the duration of the function"
    response = Response("GET", RecordingSink())
    try:
        raise Refused
    except Refused as error:
        response.start_response("500 Oops", [], sys.exc_info())
        reference = weakref.ref(error)
    assert reference() is None


def test_exc_info_that_was_raised_again_makes_no_cycle_through_the_frame(reference_counts_only):
    # "to avoid creating a circular reference through the traceback and frames involved"
    response = Response("GET", RecordingSink())
    response.start_response("200 OK", [])
    response.write(b"first")
    with contextlib.suppress(Refused):
        try:
            raise Refused
        except Refused as error:
            reference = weakref.ref(error)
            response.start_response("500 Oops", [], sys.exc_info())
    assert reference() is None


# The head waits for content.


def test_head_is_not_handed_over_by_start_response():
    # "must not actually transmit the response headers"
    sink = RecordingSink()
    response = Response("GET", sink)
    response.start_response("200 OK", [("Content-Length", "0")])
    assert sink.calls == []
    response.write(b"")
    assert sink.names() == ["check_connected"]


def test_head_is_handed_over_with_the_first_non_empty_block_and_not_before():
    # "only after the first iteration of the application return value that yields a non-empty bytestring"
    sink = RecordingSink()
    response = Response("GET", sink)
    seen = []

    def blocks():
        seen.append(sink.sent())
        yield b""
        seen.append(sink.sent())
        yield b""
        seen.append(sink.sent())
        yield b"first"
        seen.append(sink.sent())

    response.start_response("200 OK", [])
    response.send(blocks())
    assert seen == [[], [], [], ["200 OK", b"first"]]


def test_head_is_handed_over_by_the_first_write():
    # "or upon the application's first invocation of the write() callable"
    sink = RecordingSink()
    write = Response("GET", sink).start_response("200 OK", [])
    write(b"first")
    assert sink.sent() == ["200 OK", b"first"]


def test_start_response_not_called_by_the_end_of_the_iterable_is_an_error(serve, error_log):
    # "the application must invoke the start_response() callable before the iterable yields its first body bytestring"
    with serve(lambda environ, start_response: iter([b"content"])).connect() as client:
        assert client.get().status_code == 500
    assert "start_response was not called" in error_log.text
