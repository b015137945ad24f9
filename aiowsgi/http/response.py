"""Responses on the wire: the head, chunks, and the gateway's own answers.

Serialised here for both parsers: that alone halves what h11 costs for a request. The functions are pure and run in the
worker, so that the loop has only to write what they return.

Thread: any.

Source: RFC 9112 sections 4, 6, 7.1 and 9.3; RFC 9110 sections 6.6.1, 8.6, 15.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from email.utils import formatdate
from http import HTTPStatus

from aiowsgi.http.events import Refusal
from aiowsgi.semantics import RequestHead, ResponseHead, has_content

__all__ = [
    "CONTINUE",
    "LAST_CHUNK",
    "Framing",
    "chunk_pieces",
    "date_field",
    "frame_response",
    "plain_response",
    "refusal_response",
    "serialize_head",
]

#: RFC 9110 §15.2.1.
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"

# Below this size a chunk is cheaper joined with its framing than sent as three pieces. Arbitrary within a factor of 4.
_JOIN_SIZE = 16 * 1024

_date: tuple[int, str] = (0, "")


def date_field() -> str:
    """Return the Date field line for now, made once a second.

    The pair is replaced whole, so that a thread sees a second and its own text, never a mixture.
    """
    global _date
    second = int(time.time())
    cached_second, text = _date
    if second != cached_second:
        text = f"Date: {formatdate(second, usegmt=True)}\r\n"
        _date = (second, text)
    return text


class Framing:
    """How a response is delimited, and what that asks of the connection.

    Args:
        content_length: to be sent as ``Content-Length``; ``None`` where there is to be none.
        chunked: content is sent in chunks.
        persistent: the connection may serve another request afterwards.
    """

    __slots__ = ("chunked", "content_length", "persistent")

    def __init__(self, content_length: int | None, chunked: bool, persistent: bool) -> None:
        self.content_length = content_length
        self.chunked = chunked
        self.persistent = persistent


def frame_response(request: RequestHead, head: ResponseHead, whole_size: int | None, persistent: bool) -> Framing:
    """Decide how a response is delimited.

    Args:
        request: what it answers.
        head: what the application said; its own ``Content-Length`` wins.
        whole_size: bytes of content where all of it is known now, else ``None``.
        persistent: the gateway would keep the connection.

    Source: RFC 9112 section 6.3; RFC 9110 section 8.6.
    """
    content_length = head.content_length
    if not has_content(request.method, head.status_code):
        if head.status_code == 205:
            content_length = 0
        elif head.status_code == 204:
            content_length = None
        elif content_length is None and whole_size and head.status_code != 304:
            # HEAD: what a GET would have been told, where the application handed the content over all the same.
            content_length = whole_size
        return Framing(content_length, False, persistent)
    if content_length is None:
        content_length = whole_size
    if content_length is not None:
        return Framing(content_length, False, persistent)
    if request.http_version == "1.1":
        return Framing(None, True, persistent)
    return Framing(None, False, False)


def serialize_head(request: RequestHead, head: ResponseHead, framing: Framing, server: str) -> bytes:
    """Return a response head, down to its empty line.

    Args:
        request: what is answered.
        head: status and fields; the fields have been validated.
        framing: from :func:`frame_response`.
        server: the Server field line with its line end, or nothing.
    """
    lines = [f"HTTP/1.1 {head.status}\r\n"]
    date = True
    for name, value in head.fields:
        lines.append(f"{name}: {value}\r\n")
        # Lengths first: comparing cases costs more than all the rest.
        size = len(name)
        if size == 4 and date and name.lower() == "date":
            date = False
        elif size == 6 and server and name.lower() == "server":
            server = ""
    if date:
        lines.append(date_field())
    if server:
        lines.append(server)
    if framing.content_length is not None:
        lines.append(f"Content-Length: {framing.content_length}\r\n")
    elif framing.chunked:
        lines.append("Transfer-Encoding: chunked\r\n")
    if not framing.persistent:
        lines.append("Connection: close\r\n")
    elif request.http_version == "1.0":
        lines.append("Connection: keep-alive\r\n")
    lines.append("\r\n")
    return "".join(lines).encode("latin-1")


def chunk_pieces(block: bytes) -> Sequence[bytes]:
    """Frame a block as one chunk, without copying a large one.

    Args:
        block: not empty: an empty chunk would end the content.
    """
    if len(block) < _JOIN_SIZE:
        return (b"%x\r\n%b\r\n" % (len(block), block),)
    return (b"%x\r\n" % len(block), block, b"\r\n")


def refusal_response(refusal: Refusal, method: str | None, server: str, *, retry_after: int | None = None) -> bytes:
    """Return the gateway's own answer to a request: a small text page without internals.

    The connection always closes after it.

    Args:
        refusal: status and words.
        method: of the request, where it is known: an answer to HEAD has no content.
        server: the Server field line with its line end, or nothing.
        retry_after: seconds, for 503.
    """
    phrase = HTTPStatus(refusal.status_code).phrase
    content = f"{refusal.status_code} {phrase}: {refusal.detail}\n" if refusal.detail else f"{phrase}\n"
    retry = "" if retry_after is None else f"Retry-After: {retry_after}\r\n"
    head = (
        f"HTTP/1.1 {refusal.status_code} {phrase}\r\n{date_field()}{server}{retry}"
        "Content-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    )
    return (head if method == "HEAD" or refusal.answers_head else head + content).encode("latin-1")


def plain_response(
    status: str, content: bytes, request: RequestHead, *, persistent: bool, content_type: str, server: str
) -> bytes:
    """Return an answer of the gateway's own that is no refusal, and that nobody keeps.

    Args:
        status: ``"200 OK"``.
        content: left out for HEAD.
        request: what is answered.
        persistent: the connection may serve another request afterwards.
        content_type: of the content.
        server: the Server field line with its line end, or nothing.
    """
    connection = "" if persistent else "Connection: close\r\n"
    if persistent and request.http_version == "1.0":
        connection = "Connection: keep-alive\r\n"
    head = (
        f"HTTP/1.1 {status}\r\n{date_field()}{server}Content-Type: {content_type}\r\n"
        f"Content-Length: {len(content)}\r\nCache-Control: no-store\r\n{connection}\r\n"
    ).encode("latin-1")
    return head if request.method == "HEAD" else head + content
