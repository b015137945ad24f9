"""Every request in ``tests/corpus``: the outcome that its name demands, by both parsers, however the bytes arrive.

``invalid/<rfc>-<section>-<condition>.<status>.http`` is refused with that status.
``valid/<rfc>-<section>-<condition>.ok.http`` is accepted as the ``.json`` beside it says; bytes are latin-1 there.

The RFC in a name is the one that gives the rule; where it leaves a choice, the status is the policy's.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PARSERS, ServerThread, running_server
from tests.http.reading import Reading, byte_by_byte, every_split, new_connection, read_request

CORPUS = Path(__file__).parent / "corpus"
VALID = sorted((CORPUS / "valid").glob("*.http"))
INVALID = sorted((CORPUS / "invalid").glob("*.http"))

# Up to here every boundary is tried; every request of the corpus but the oversized ones is smaller.
SMALL_SIZE = 512


def name_of(path: Path) -> str:
    return path.name.removesuffix(".http")


def demanded_status(path: Path) -> int:
    return int(name_of(path).rpartition(".")[2])


def expectation(path: Path) -> dict[str, Any]:
    expected: dict[str, Any] = json.loads(path.with_suffix(".json").read_bytes())
    return expected


def readings(data: bytes) -> Iterator[tuple[str, Reading]]:
    """Read the same bytes in every way that is tried, with both parsers; name each."""
    for parser_name in PARSERS:
        yield f"{parser_name}, whole", read_request(new_connection(parser_name), [data])
        yield f"{parser_name}, byte by byte", read_request(new_connection(parser_name), byte_by_byte(data))
        if len(data) <= SMALL_SIZE:
            for halves in every_split(data):
                yield f"{parser_name}, split at {len(halves[0])}", read_request(new_connection(parser_name), halves)


def test_corpus_is_complete_and_well_named() -> None:
    assert len(VALID) >= 200
    assert len(INVALID) >= 450
    assert all(path.name.startswith("rfc") for path in VALID + INVALID)
    assert {demanded_status(path) for path in INVALID} == {400, 413, 414, 417, 431, 501, 505}
    assert all(name_of(path).endswith(".ok") for path in VALID)
    assert {path.stem for path in VALID} == {path.stem for path in (CORPUS / "valid").glob("*.json")}
    # An editor or a checkout that turns line ends would make most cases pass for the wrong reason.
    assert all(b"\r\n" in path.read_bytes() for path in VALID)


@pytest.mark.parametrize("path", INVALID, ids=name_of)
def test_invalid_request_in_any_pieces_is_refused(path: Path) -> None:
    status = demanded_status(path)
    for way, reading in readings(path.read_bytes()):
        assert reading.refusal == status, (way, reading)
        assert not reading.complete, (way, reading)
        assert reading.left_over_size == 0, (way, reading)


@pytest.mark.parametrize("path", VALID, ids=name_of)
def test_valid_request_in_any_pieces_is_read_as_expected(path: Path) -> None:
    expected = expectation(path)
    wanted = Reading(
        head=(
            expected["method"],
            expected["target"],
            expected["path"],
            expected["query"],
            expected["http_version"],
            tuple(sorted(expected["variables"].items())),
            expected["content_length"],
            expected["persistent"],
            expected["expect_continue"],
        ),
        content=expected["content"].encode("latin-1"),
        complete=True,
        refusal=None,
        refused_at_end=False,
        left_over_size=len(expected["left_over"]),
    )
    data = path.read_bytes()
    assert data.endswith(expected["left_over"].encode("latin-1"))
    for way, reading in readings(data):
        assert reading == wanted, way


class Recorder:
    """An application that notes what reaches it."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, str, bytes]] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        content = environ["wsgi.input"].read()
        self.requests.append((environ["REQUEST_METHOD"], environ["RAW_URI"], environ["QUERY_STRING"], content))
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"ok"]


class RecordingServer:
    def __init__(self, thread: ServerThread, recorder: Recorder) -> None:
        self.connect = thread.connect
        self.recorder = recorder


@pytest.fixture(scope="module")
def servers() -> Iterator[list[RecordingServer]]:
    """One server for all requests: a refusal must not show in anything but its own connection."""
    with ExitStack() as stack:
        servers = []
        for parser_name, loop_name in (("h11", "asyncio"), ("httptools", "uvloop")):
            recorder = Recorder()
            thread = stack.enter_context(running_server(recorder, loop_name, http=parser_name))
            servers.append(RecordingServer(thread, recorder))
        yield servers


@pytest.mark.parametrize("path", INVALID, ids=name_of)
def test_invalid_request_over_a_socket_is_answered_and_closed_and_never_reaches_the_application(
    path: Path, servers: list[RecordingServer]
) -> None:
    data = path.read_bytes()
    needs_end = read_request(new_connection("h11"), [data]).refused_at_end
    for server in servers:
        server.recorder.requests.clear()
        with server.connect() as client:
            client.send(data)
            if needs_end:
                client.end()
            response = client.receive()
            assert response.status_code == demanded_status(path)
            assert response.interim in ([], [b"HTTP/1.1 100 Continue"])
            assert response.value("Connection") == "close"
            assert response.value("Content-Type") == "text/plain; charset=utf-8"
            assert client.at_end()
        assert server.recorder.requests == []


@pytest.mark.parametrize("path", VALID, ids=name_of)
def test_valid_request_over_a_socket_reaches_the_application(path: Path, servers: list[RecordingServer]) -> None:
    expected = expectation(path)
    for server in servers:
        server.recorder.requests.clear()
        with server.connect() as client:
            client.send(path.read_bytes())
            response = client.receive(expected["method"])
            assert response.status_code == 200
            closes = response.value("Connection") == "close"
            assert closes is not expected["persistent"]
            client.end()
            client.read_all()
        method, target, query, content = server.recorder.requests[0]
        assert (method, target, query) == (expected["method"], expected["target"], expected["query"])
        assert content == expected["content"].encode("latin-1")
        if closes:
            # RFC 9112 §9.6: no further requests are processed on that connection.
            assert len(server.recorder.requests) == 1
