"""A request's content: collected, bounded, and never half of it."""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from aiowsgi.asgi import ASGIAdapter
from tests.asgi.conversation import Conversation, Notes, answer, http_scope, until
from tests.hosting import poll

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

Adapt = Callable[..., ASGIAdapter]


def post(size: int | None = None) -> dict[str, Any]:
    scope = http_scope("POST")
    scope["headers"].append((b"transfer-encoding", b"chunked") if size is None else (b"content-length", b"%d" % size))
    return scope


class Reader:
    """An application that notes what ``read`` returns for its ``wsgi.input``."""

    def __init__(self, read: Callable[[Any], Any] = lambda file: file.read()) -> None:
        self._read = read
        self.notes = Notes()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.notes.put((environ.get("CONTENT_LENGTH"), self._read(environ["wsgi.input"])))
        start_response("200 OK", [])
        return [b"read"]


LINES = b"first\nsecond\n\nlast"


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        (lambda file: file.read(), LINES),
        (lambda file: [file.read(3), file.read(0), file.read(100), file.read(1)], [b"fir", b"", LINES[3:], b""]),
        (lambda file: [file.readline(3), file.readline(), file.readline(-1)], [b"fir", b"st\n", b"second\n"]),
        (lambda file: file.readlines(), LINES.splitlines(keepends=True)),
        (lambda file: file.readlines(7), [b"first\n", b"second\n"]),
        (list, LINES.splitlines(keepends=True)),
    ],
)
@pytest.mark.parametrize("request_buffer", [0, 1000])
async def test_content_in_memory_or_file_reads_as_pep_3333_says(
    adapt: Adapt, read: Callable[[Any], Any], expected: Any, request_buffer: int
) -> None:
    reader = Reader(read)
    await answer(adapt(reader, request_buffer=request_buffer), post(len(LINES)), LINES)
    assert reader.notes.take() == (str(len(LINES)), expected)


async def test_content_of_unknown_size_gets_its_content_length(adapt: Adapt) -> None:
    reader = Reader()
    conversation = Conversation(adapt(reader), post(), None)
    for block in (b"one ", b"", b"two"):
        conversation.feed(block, more=True)
    conversation.feed(b"")
    await conversation.ended()
    assert reader.notes.take() == ("7", b"one two")


async def test_content_over_the_buffer_goes_to_a_file_and_memory_is_given_back(adapt: Adapt) -> None:
    blocks = [bytes([number]) * 1000 for number in range(100)]
    whole = b"".join(blocks)
    reader = Reader(lambda file: hashlib.sha256(file.read()).digest())
    adapter = adapt(reader, request_buffer=10_000)
    conversation = Conversation(adapter, post(len(whole)), None)
    for number, block in enumerate(blocks, 1):
        conversation.feed(block, more=True)
        await until(conversation._incoming.empty)
        if number <= 10:
            await until(lambda expected=1000 * number: adapter.held_size == expected)
        assert adapter.held_size <= 10_000 + len(block)  # the one that is on its way to the file
    await until(lambda: adapter.held_size == 0)
    conversation.feed(b"")
    await conversation.ended()
    assert reader.notes.take() == (str(len(whole)), hashlib.sha256(whole).digest())


async def test_content_over_the_total_goes_to_a_file_at_once(adapt: Adapt) -> None:
    def read(file: Any) -> bytes:
        poll(lambda: adapter.held_size == 0)  # the other's write may take longer
        content: bytes = file.read()
        return content

    reader = Reader(read)
    total = 64 * 1024
    adapter = adapt(reader, request_buffer=1024 * 1024, request_buffer_total=total)
    first = Conversation(adapter, post(total + 1), None)
    first.feed(bytes(total - 1), more=True)
    await until(lambda: adapter.held_size == total - 1)
    second = Conversation(adapter, post(6), None)
    second.feed(b"abc", more=True)
    await until(second._incoming.empty)
    first.feed(b"!!")
    await first.ended()
    second.feed(b"def")  # there is room again, but its place is the file now
    await second.ended()
    assert reader.notes.take() == (str(total + 1), bytes(total - 1) + b"!!")
    assert reader.notes.take() == ("6", b"abcdef")


@pytest.mark.parametrize("request_buffer", [0, 1000])
async def test_content_that_is_cut_short_never_reaches_the_application(adapt: Adapt, request_buffer: int) -> None:
    reader = Reader()
    conversation = Conversation(adapt(reader, request_buffer=request_buffer), post(6), None)
    conversation.feed(b"abc", more=True)
    conversation.disconnect()
    await conversation.ended()
    assert conversation.nothing_sent()
    assert reader.notes.empty()


@pytest.mark.parametrize("declared", [b"6", b"5, 5", b"-1"])
async def test_content_shorter_than_declared_is_400(adapt: Adapt, declared: bytes) -> None:
    reader = Reader()
    scope = http_scope("POST")
    scope["headers"].append((b"content-length", declared))
    status, _, page = await answer(adapt(reader), scope, b"abcde")
    assert (status, page) == (400, b"400 Bad Request: the request content is not as long as its Content-Length\n")
    assert reader.notes.empty()


async def test_content_longer_than_declared_is_all_there(adapt: Adapt) -> None:
    reader = Reader()
    await answer(adapt(reader), post(3), b"unpacked by a middleware")
    assert reader.notes.take() == ("24", b"unpacked by a middleware")


async def test_content_over_the_limit_is_413(adapt: Adapt) -> None:
    reader = Reader()
    status, fields, page = await answer(adapt(reader, limit_request_body=4), post(5), b"abcde")
    assert (status, page) == (413, b"413 Content Too Large: the request content is too large\n")
    assert fields["content-length"] == str(len(page))
    assert reader.notes.empty()


async def test_content_that_cannot_be_stored_is_500_and_logged(
    adapt: Adapt, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error_log: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    reader = Reader()
    status, _, _ = await answer(adapt(reader, request_buffer=0), post(3), b"abc")
    assert status == 500
    assert [record.getMessage().partition(":")[0] for record in error_log.records] == ["cannot store request content"]
    assert reader.notes.empty()


async def test_content_is_closed_after_the_request(adapt: Adapt) -> None:
    notes = Notes()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        notes.put(environ["wsgi.input"])
        start_response("200 OK", [])
        return []

    await answer(adapt(application, request_buffer=0), post(3), b"abc")
    file = notes.take()
    assert isinstance(file, io.IOBase)
    assert file.closed
