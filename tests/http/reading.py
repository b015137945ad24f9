"""Drives an ``HTTPConnection`` as the server does, and says what came of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from aiowsgi.config import Config
from aiowsgi.http.connection import HTTPConnection, ReadState
from aiowsgi.http.events import END_OF_CONTENT, Event, Refusal
from aiowsgi.http.parsers import make_head_parser
from aiowsgi.http.policy import RequestPolicy
from aiowsgi.semantics import RequestHead

# One object of each for all tests, as one serves all connections of a loop: what one head leaves behind in a parser
# must never show in another.
SHARED_PARSERS = {name: make_head_parser(name) for name in ("h11", "httptools")}
DEFAULT_POLICY = RequestPolicy(Config())

HeadFields = tuple[str, str, str, str, str, tuple[tuple[str, str], ...], int | None, bool, bool]


class Reading(NamedTuple):
    """What a connection made of the bytes of its first request."""

    head: HeadFields | None
    content: bytes
    complete: bool
    refusal: int | None
    #: Whether the refusal came only with the end of the stream.
    refused_at_end: bool
    #: What was left unread for the next request, in bytes.
    left_over_size: int


def head_fields(head: RequestHead) -> HeadFields:
    """Return all attributes of a head, comparable."""
    return (
        head.method,
        head.target,
        head.path,
        head.query,
        head.http_version,
        tuple(sorted(head.variables.items())),
        head.content_length,
        head.persistent,
        head.expect_continue,
    )


def new_connection(parser_name: str, **limits: int) -> HTTPConnection:
    policy = RequestPolicy(Config(**limits)) if limits else DEFAULT_POLICY
    return HTTPConnection(SHARED_PARSERS[parser_name], policy)


def read_request(connection: HTTPConnection, pieces: Iterable[bytes]) -> Reading:
    """Receive all pieces, and the end of the stream if they leave a request unfinished."""
    events: list[Event] = []
    for piece in pieces:
        fresh = connection.receive_data(piece)
        if events and isinstance(events[-1], Refusal):
            assert not fresh, "events after a refusal"
        events += fresh
    refused_at_end = False
    if connection.state not in (ReadState.COMPLETE, ReadState.CLOSED):
        fresh = connection.receive_eof()
        refused_at_end = bool(fresh)
        events += fresh
    return _reading(events, connection, refused_at_end)


def _reading(events: list[Event], connection: HTTPConnection, refused_at_end: bool) -> Reading:
    head: HeadFields | None = None
    content: list[bytes] = []
    complete = False
    refusal: int | None = None
    for event in events:
        assert refusal is None, "an event after a refusal"
        assert not complete, "an event after the end of the content"
        if isinstance(event, RequestHead):
            assert head is None, "two heads"
            head = head_fields(event)
        elif isinstance(event, Refusal):
            refusal = event.status_code
        elif event is END_OF_CONTENT:
            assert head is not None
            complete = True
        else:
            assert type(event) is bytes
            assert event, "an empty block"
            content.append(event)
    assert complete is (connection.state is ReadState.COMPLETE)
    return Reading(head, b"".join(content), complete, refusal, refused_at_end, connection.buffered_size)


def byte_by_byte(data: bytes) -> Iterator[bytes]:
    return (data[index : index + 1] for index in range(len(data)))


def every_split(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Return the two halves of ``data`` for every boundary in it."""
    return ((data[:index], data[index:]) for index in range(1, len(data)))


def requests_of(connection: HTTPConnection, pieces: Iterable[bytes]) -> Iterator[Event]:
    """Yield every event of every request, as though each was answered at once."""
    for piece in pieces:
        yield from connection.receive_data(piece)
        while connection.behind or connection.state is ReadState.COMPLETE:
            yield from (connection.receive_data(b"") if connection.behind else connection.start_next_request() or ())
    yield from connection.receive_eof()
