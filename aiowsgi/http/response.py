"""Responses on the wire: the head, chunks, and the gateway's own answers.

Serialised here whichever parser is used: that alone halves what a request costs with h11. The functions are pure and
run in the worker, so that the loop has only to write what they return.

Thread: any.

Source: RFC 9112 sections 4, 6, 7.1 and 9.3; RFC 9110 sections 6.6.1, 8.6, 15.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from email.utils import formatdate
from http import HTTPStatus

from aiowsgi.http.events import Refusal
from aiowsgi.semantics import NO_CONTENT, RequestHead, ResponseHead

__all__ = [
    "CONTINUE",
    "LAST_CHUNK",
    "chunk_pieces",
    "date_field",
    "frame_response",
    "plain_response",
    "reason_phrase",
    "refusal_page",
    "refusal_response",
    "serialize_head",
]

#: RFC 9110 §15.2.1.
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"

# RFC 9110 §15.5.14 and §15.5.15: what older standard libraries still call by RFC 2616's names.
_NEWER_PHRASES = {413: "Content Too Large", 414: "URI Too Long"}

# Below this size a chunk is cheaper joined with its framing than sent as three pieces. Arbitrary within a factor of 4.
_JOIN_SIZE = 16 * 1024

# The second that was formatted last, and its text. Replaced as a whole, so that no thread sees one with another's.
_date: tuple[int, str] = (0, "")


def date_field() -> str:
    """Return the Date field line for now, made once a second."""
    global _date
    now = int(time.time())
    second, text = _date
    if second != now:
        text = f"Date: {formatdate(now, usegmt=True)}\r\n"
        _date = (now, text)
    return text


def frame_response(
    request: RequestHead, head: ResponseHead, whole_size: int | None, persistent: bool
) -> tuple[int | None, bool, bool]:
    """Decide how a response is delimited.

    Args:
        request: what it answers.
        head: what the application said; its own ``Content-Length`` wins.
        whole_size: bytes of content where all of it is known now, else ``None``.
        persistent: the gateway would keep the connection.

    Returns:
        What is sent as ``Content-Length``, or ``None`` if none is sent; whether content is sent in chunks;
        whether the connection may serve another request afterwards.

    Source: RFC 9112 section 6.3; RFC 9110 section 8.6.
    """
    content_length = head.content_length
    if request.method == "HEAD" or head.status_code in NO_CONTENT:
        if head.status_code == 205:
            content_length = 0
        elif head.status_code == 204:
            content_length = None
        elif content_length is None and whole_size and head.status_code != 304:
            # HEAD: what a GET would have been told, if the application handed over the content nevertheless.
            content_length = whole_size
        return content_length, False, persistent
    if content_length is None:
        content_length = whole_size
    if content_length is not None:
        return content_length, False, persistent
    chunked = request.http_version == "1.1"
    return None, chunked, persistent and chunked


def serialize_head(
    request: RequestHead, head: ResponseHead, content_length: int | None, chunked: bool, persistent: bool, server: str
) -> bytes:
    """Return a response head, down to its empty line.

    Args:
        request: what is answered.
        head: status and fields; they have been validated.
        content_length: from :func:`frame_response`.
        chunked: likewise.
        persistent: likewise.
        server: the Server field line with its line end, or nothing.
    """
    date = "" if head.has_date else date_field()
    if head.has_server:
        server = ""
    if content_length is not None:
        delimiter = f"Content-Length: {content_length}\r\n"
    else:
        delimiter = "Transfer-Encoding: chunked\r\n" if chunked else ""
    if not persistent:
        connection = "Connection: close\r\n"
    else:
        connection = "" if request.http_version == "1.1" else "Connection: keep-alive\r\n"
    return f"HTTP/1.1 {head.status}\r\n{head.field_lines}{date}{server}{delimiter}{connection}\r\n".encode("latin-1")


def chunk_pieces(block: bytes) -> Sequence[bytes]:
    """Frame a block as one chunk, without copying a large one.

    Args:
        block: not empty: an empty chunk would end the content.
    """
    if len(block) < _JOIN_SIZE:
        return (b"%x\r\n%b\r\n" % (len(block), block),)
    return (b"%x\r\n" % len(block), block, b"\r\n")


def reason_phrase(status_code: int) -> str:
    """Return RFC 9110's words for a status code; those of the standard library differ before Python 3.13."""
    return _NEWER_PHRASES.get(status_code) or HTTPStatus(status_code).phrase


def refusal_page(refusal: Refusal) -> bytes:
    """Return the content of the gateway's own answer to a request: a small text page without internals."""
    return f"{refusal.status_code} {reason_phrase(refusal.status_code)}: {refusal.detail}\n".encode("latin-1")


def refusal_response(refusal: Refusal, method: str | None, server: str) -> bytes:
    """Return the gateway's own answer to a request.

    The connection always closes after it.

    Args:
        refusal: status and words.
        method: of the request, where it is known: an answer to HEAD has no content.
        server: the Server field line with its line end, or nothing.
    """
    content = refusal_page(refusal)
    retry = "Retry-After: 1\r\n" if refusal.status_code == 503 else ""
    head = (
        f"HTTP/1.1 {refusal.status_code} {reason_phrase(refusal.status_code)}\r\n{date_field()}{server}{retry}"
        "Content-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    ).encode("latin-1")
    return head if method == "HEAD" or refusal.answers_head else head + content


def plain_response(
    status: str,
    content: bytes,
    request: RequestHead,
    *,
    persistent: bool,
    content_type: str,
    server: str,
    field_lines: str = "",
) -> bytes:
    """Return an answer of the gateway's own that is not a refusal, and that must not be cached.

    Args:
        status: ``"200 OK"``.
        content: left out for HEAD.
        request: what is answered.
        persistent: the connection may serve another request afterwards.
        content_type: of the content.
        server: the Server field line with its line end, or nothing.
        field_lines: further ones, with their line ends.
    """
    connection = "" if persistent else "Connection: close\r\n"
    if persistent and request.http_version == "1.0":
        connection = "Connection: keep-alive\r\n"
    head = (
        f"HTTP/1.1 {status}\r\n{date_field()}{server}Content-Type: {content_type}\r\n"
        f"Content-Length: {len(content)}\r\nCache-Control: no-store\r\n{field_lines}{connection}\r\n"
    ).encode("latin-1")
    return head if request.method == "HEAD" else head + content
