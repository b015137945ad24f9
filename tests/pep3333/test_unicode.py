"""PEP 3333 "Unicode Issues" and "A Note On String Types"."""

from __future__ import annotations

import enum

import pytest

from aiowsgi.errors import ApplicationError
from aiowsgi.wsgi.response import Response
from tests.pep3333.conftest import returning
from tests.wsgi.sink import RecordingSink


class MediaType(str, enum.Enum):  # noqa: UP042 - the older way, whose format() is not the value, is the subject
    JSON = "application/json"


class Spelled(str):
    """Text that formats as something else, which was never checked."""

    def __str__(self):
        return "other\r\nX-Injected: yes"

    def __format__(self, specification):
        return "other\r\nX-Injected: yes"


@pytest.mark.parametrize("text", ["caf\xe9", "\xa0\xff\x80", "=?utf-8?b?4oKs?="])
def test_latin_1_in_a_field_or_reason_is_sent_as_its_bytes(serve, text):
    # "must either be ISO-8859-1 characters, or use RFC 2047 MIME encoding"
    with serve(returning([b""], f"200 {text}", [("X-Text", text)])).connect() as client:
        response = client.get()
        assert response.status_line == b"HTTP/1.1 200 " + text.encode("latin-1")
        assert response.value("X-Text") == text


@pytest.mark.parametrize("text", ["€", "日本", "\udce9", "\U0001f389", "a\u0100"])
@pytest.mark.parametrize("place", ["status", "name", "value"])
def test_text_beyond_latin_1_is_refused_in_the_application(place, text):
    # "a fatal error for an application to supply strings containing any other Unicode character"
    status = f"200 {text}" if place == "status" else "200 OK"
    headers = [(f"X-{text}" if place == "name" else "X-Name", text if place == "value" else "x")]
    with pytest.raises(ApplicationError):
        Response("GET", RecordingSink()).start_response(status, headers)


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (b"200 OK", []),
        (200, []),
        (None, []),
        ("200 OK", [(b"X-Name", "x")]),
        ("200 OK", [("X-Name", b"x")]),
        ("200 OK", [("X-Name", 1)]),
        ("200 OK", [("X-Name", None)]),
        ("200 OK", [("Content-Length", 5)]),
    ],
    ids=repr,
)
def test_anything_but_native_strings_is_refused_in_the_application(status, headers):
    # "all objects referred to in this specification as 'strings' must be of type str"
    with pytest.raises(ApplicationError, match="native string"):
        Response("GET", RecordingSink()).start_response(status, headers)


def test_subclass_of_str_is_sent_as_the_text_that_was_checked(serve):
    headers = [("Content-Type", MediaType.JSON), ("X-Name", Spelled("value")), (Spelled("X-Field"), "name")]
    with serve(returning([b""], Spelled("200 OK"), headers)).connect() as client:
        response = client.get()
        assert response.status_line == b"HTTP/1.1 200 OK"
        assert response.fields[:3] == [("Content-Type", "application/json"), ("X-Name", "value"), ("X-Field", "name")]


@pytest.mark.parametrize("block", ["text", "", bytearray(b"x"), memoryview(b"x"), 1, None], ids=repr)
@pytest.mark.parametrize("shape", [list, tuple, iter], ids=["list", "tuple", "iterator"])
def test_block_of_anything_but_bytes_is_refused(shape, block):
    # "yielded by the application ..., the value must be of type bytes"
    sink = RecordingSink()
    response = Response("GET", sink)
    response.start_response("200 OK", [])
    with pytest.raises(ApplicationError, match="not bytes"):
        response.send(shape([block]))
    assert sink.calls == []
