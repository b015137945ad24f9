"""Responses on the wire, read back by h11's client where that can tell more than a comparison."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from http import HTTPStatus

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiowsgi.http import response
from aiowsgi.http.events import Refusal
from aiowsgi.http.response import (
    CONTINUE,
    LAST_CHUNK,
    chunk_pieces,
    date_field,
    frame_response,
    refusal_response,
    serialize_head,
)
from aiowsgi.semantics import RequestHead, ResponseHead
from tests.http.grammar import bounded

SERVER = "Server: aiowsgi\r\n"


def request(method: str = "GET", http_version: str = "1.1") -> RequestHead:
    return RequestHead(method, "/", "/", "", http_version, {}, 0, True, False)


def response_head(status: str = "200 OK", *fields: tuple[str, str], content_length: int | None = None) -> ResponseHead:
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    names = {name.lower() for name, _ in fields}
    head = ResponseHead(status, int(status[:3]), lines, content_length)
    head.has_date = "date" in names
    head.has_server = "server" in names
    return head


def read_back(data: bytes, method: str = "GET", *, ends: bool = False) -> tuple[h11.Response, bytes, h11.Connection]:
    """Read a response as a client that sent a request with ``method``."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    if ends:
        client.receive_data(b"")
    head = client.next_event()
    assert isinstance(head, h11.Response)
    content = b""
    while isinstance(event := client.next_event(), h11.Data):
        content += bytes(event.data)
    assert isinstance(event, h11.EndOfMessage)
    return head, content, client


# Date.


def test_date_field_is_an_imf_fixdate_of_now() -> None:
    name, _, value = date_field().removesuffix("\r\n").partition(": ")
    assert name == "Date"
    assert value.endswith(" GMT")
    assert parsedate_to_datetime(value).timestamp() == response._date[0]


def test_date_field_of_an_earlier_second_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response, "_date", (1, "Date: long ago\r\n"))
    assert "long ago" not in date_field()


def test_date_field_of_a_later_second_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    # The clock was set back.
    later = int(time.time()) + 1000
    monkeypatch.setattr(response, "_date", (later, "Date: far ahead\r\n"))
    assert "far ahead" not in date_field()


def test_date_field_within_a_second_is_made_once() -> None:
    # The second may change between two calls, but not twice running.
    assert any(date_field() is date_field() for _ in range(2))


# Framing: RFC 9112 §6.3.


@pytest.mark.parametrize(
    ("method", "http_version", "status", "application", "whole", "expected"),
    [
        # (Content-Length, chunked, persistent)
        ("GET", "1.1", "200 OK", None, 5, (5, False, True)),
        ("GET", "1.1", "200 OK", None, 0, (0, False, True)),
        ("GET", "1.1", "200 OK", None, None, (None, True, True)),
        ("GET", "1.1", "200 OK", 7, None, (7, False, True)),
        ("GET", "1.1", "200 OK", 5, 5, (5, False, True)),
        ("GET", "1.0", "200 OK", None, 5, (5, False, True)),
        ("GET", "1.0", "200 OK", 7, None, (7, False, True)),
        ("GET", "1.0", "200 OK", None, None, (None, False, False)),
        ("HEAD", "1.1", "200 OK", None, 5, (5, False, True)),
        ("HEAD", "1.1", "200 OK", None, 0, (None, False, True)),
        ("HEAD", "1.1", "200 OK", None, None, (None, False, True)),
        ("HEAD", "1.1", "200 OK", 7, None, (7, False, True)),
        ("HEAD", "1.0", "200 OK", None, None, (None, False, True)),
        ("GET", "1.1", "204 No Content", None, 0, (None, False, True)),
        ("GET", "1.1", "204 No Content", 5, 5, (None, False, True)),
        ("HEAD", "1.1", "204 No Content", 5, None, (None, False, True)),
        ("GET", "1.1", "205 Reset Content", None, None, (0, False, True)),
        ("GET", "1.1", "205 Reset Content", 5, 5, (0, False, True)),
        ("GET", "1.1", "304 Not Modified", None, 0, (None, False, True)),
        ("GET", "1.1", "304 Not Modified", None, 5, (None, False, True)),
        ("GET", "1.1", "304 Not Modified", 7, None, (7, False, True)),
        ("HEAD", "1.1", "304 Not Modified", 7, 5, (7, False, True)),
        ("POST", "1.1", "404 Not Found", None, None, (None, True, True)),
    ],
)
def test_framing_follows_method_version_status_and_what_is_known(
    method: str,
    http_version: str,
    status: str,
    application: int | None,
    whole: int | None,
    expected: tuple[int | None, bool, bool],
) -> None:
    head = response_head(status, content_length=application)
    framing = frame_response(request(method, http_version), head, whole, persistent=True)
    assert framing == expected
    assert frame_response(request(method, http_version), head, whole, persistent=False) == (*expected[:2], False)


# Serialising.


def serialized(
    head: ResponseHead,
    *,
    method: str = "GET",
    http_version: str = "1.1",
    whole: int | None = 0,
    persistent: bool = True,
    server: str = "",
) -> list[str]:
    """Return the lines of a serialised head, without its end."""
    head_request = request(method, http_version)
    framing = frame_response(head_request, head, whole, persistent)
    data = serialize_head(head_request, head, *framing, server)
    assert data.endswith(b"\r\n\r\n")
    return data[:-4].decode("latin-1").split("\r\n")


def test_head_keeps_status_fields_and_their_order() -> None:
    lines = serialized(response_head("299 Odd  reason", ("X-B", "1"), ("X-a", " 2"), ("X-B", "é")))
    assert lines[:4] == ["HTTP/1.1 299 Odd  reason", "X-B: 1", "X-a:  2", "X-B: é"]


def test_head_with_a_known_length_says_so() -> None:
    lines = serialized(response_head(), whole=5)
    assert "Content-Length: 5" in lines
    assert not any(line.startswith("Transfer-Encoding") for line in lines)


def test_head_with_an_unknown_length_is_chunked() -> None:
    lines = serialized(response_head(), whole=None)
    assert "Transfer-Encoding: chunked" in lines
    assert not any(line.startswith("Content-Length") for line in lines)


def test_head_for_http_1_0_is_never_chunked_and_closes() -> None:
    lines = serialized(response_head(), whole=None, http_version="1.0")
    assert lines[0] == "HTTP/1.1 200 OK"
    assert "Connection: close" in lines
    assert not any(line.startswith(("Transfer-Encoding", "Content-Length")) for line in lines)


@pytest.mark.parametrize(
    ("http_version", "persistent", "expected"),
    [
        ("1.1", True, []),
        ("1.1", False, ["Connection: close"]),
        ("1.0", True, ["Connection: keep-alive"]),
        ("1.0", False, ["Connection: close"]),
    ],
)
def test_head_says_what_becomes_of_the_connection(http_version: str, persistent: bool, expected: list[str]) -> None:
    lines = serialized(response_head(), whole=0, http_version=http_version, persistent=persistent)
    assert [line for line in lines if line.startswith("Connection")] == expected


@pytest.mark.parametrize("name", ["Date", "date", "DATE"])
def test_head_with_a_date_of_the_application_gets_no_other(name: str) -> None:
    lines = serialized(response_head("200 OK", (name, "yesterday")))
    assert [line for line in lines if line.lower().startswith("date:")] == [f"{name}: yesterday"]


def test_head_without_a_date_gets_one() -> None:
    lines = serialized(response_head("200 OK", ("Dato", "x"), ("xDate", "y")))
    assert len([line for line in lines if line.startswith("Date: ")]) == 1


@pytest.mark.parametrize("name", ["Server", "server", "SERVER"])
def test_head_with_a_server_of_the_application_gets_no_other(name: str) -> None:
    lines = serialized(response_head("200 OK", (name, "mine")), server=SERVER)
    assert [line for line in lines if line.lower().startswith("server:")] == [f"{name}: mine"]


def test_head_with_a_server_field_carries_it_and_without_none() -> None:
    assert "Server: aiowsgi" in serialized(response_head(), server=SERVER)
    assert not any(line.startswith("Server") for line in serialized(response_head()))


_field_names = st.text("abcXYZ-", min_size=1, max_size=8).filter(
    lambda name: name.lower() not in ("date", "server", "content-length", "connection", "transfer-encoding")
)
_field_values = st.text(
    [chr(byte) for byte in range(0x20, 0x100) if byte != 0x7F and chr(byte) not in "\x85\xa0"], max_size=10
)


@bounded
@given(
    code=st.integers(200, 999).filter(lambda code: code not in (204, 205, 304)),
    fields=st.lists(st.tuples(_field_names, _field_values), max_size=4),
    blocks=st.lists(st.binary(min_size=1, max_size=50), max_size=4),
    known=st.booleans(),
    http_version=st.sampled_from(["1.1", "1.0"]),
)
def test_any_response_is_read_back_by_a_client_as_it_was_meant(
    code: int, fields: list[tuple[str, str]], blocks: list[bytes], known: bool, http_version: str
) -> None:
    head = response_head(f"{code} Reason", *fields)
    content = b"".join(blocks)
    framing = frame_response(request(http_version=http_version), head, len(content) if known else None, True)
    _, chunked, persistent = framing
    data = serialize_head(request(http_version=http_version), head, *framing, SERVER)
    for block in blocks:
        data += b"".join(chunk_pieces(block)) if chunked else block
    if chunked:
        data += LAST_CHUNK
    received, received_content, client = read_back(data, ends=not persistent)
    assert received.status_code == code
    assert received_content == content
    expected = [(name.lower().encode(), value.encode("latin-1").strip(b" ")) for name, value in fields]
    assert list(received.headers)[: len(fields)] == expected
    assert (client.their_state is h11.DONE) is persistent


# Chunks.


@pytest.mark.parametrize("size", [1, 9, 10, 15, 16, 255, 4096, 16 * 1024 - 1, 16 * 1024, 100_000])
def test_chunk_of_any_size_is_framed(size: int) -> None:
    block = b"x" * size
    assert b"".join(chunk_pieces(block)) == f"{size:x}".encode() + b"\r\n" + block + b"\r\n"


def test_chunk_of_a_large_block_is_not_copied() -> None:
    block = b"x" * 100_000
    assert any(piece is block for piece in chunk_pieces(block))


def test_last_chunk_ends_the_content() -> None:
    assert LAST_CHUNK == b"0\r\n\r\n"


def test_continue_is_an_interim_response_without_fields() -> None:
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="POST", target="/", headers=[("Host", "a"), ("Content-Length", "1")]))
    client.receive_data(CONTINUE)
    event = client.next_event()
    assert isinstance(event, h11.InformationalResponse)
    assert event.status_code == 100
    assert list(event.headers) == []


# The gateway's own answers.


@pytest.mark.parametrize("status_code", [400, 408, 413, 414, 417, 431, 500, 501, 503, 505])
@pytest.mark.parametrize("method", [None, "GET", "POST", "HEAD"])
def test_refusal_is_a_small_text_page_and_closes(status_code: int, method: str | None) -> None:
    data = refusal_response(Refusal(status_code, "some rule"), method, SERVER)
    received, content, client = read_back(data, method or "GET")
    # RFC 9110 §15.5.14 and §15.5.15; before Python 3.13 the standard library has other words.
    phrase = {413: "Content Too Large", 414: "URI Too Long"}.get(status_code) or HTTPStatus(status_code).phrase
    assert received.status_code == status_code
    assert received.reason == phrase.encode()
    fields = dict(received.headers)
    expected = f"{status_code} {phrase}: some rule\n".encode()
    assert content == (b"" if method == "HEAD" else expected)
    assert fields[b"content-length"] == str(len(expected)).encode()
    assert fields[b"content-type"] == b"text/plain; charset=utf-8"
    assert fields[b"connection"] == b"close"
    assert fields[b"server"] == b"aiowsgi"
    assert b"date" in fields
    assert (b"retry-after" in fields) == (status_code == 503)
    assert client.trailing_data == (b"", False)


def test_refusal_of_what_may_be_tried_again_says_when() -> None:
    received, _, _ = read_back(refusal_response(Refusal(503, "busy"), "GET", ""))
    assert dict(received.headers)[b"retry-after"] == b"1"
    assert b"server" not in dict(received.headers)
