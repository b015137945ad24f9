from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import pytest

from aiowsgi.semantics import ConnectionInfo, RequestHead, variable_name
from aiowsgi.server.request_id import RequestIds
from tests.server.observing import PEER, ObservedServer, request_ids

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

PROXY = ConnectionInfo("http", "", "", "", "")
OWN = r"[0-9a-f]{16}-[0-9a-f]+"


def head(*fields: tuple[str, str]) -> RequestHead:
    return RequestHead(
        "GET", "/", "/", "", "1.1", {variable_name(name): value for name, value in fields}, 0, True, False
    )


def test_ids_of_our_own_are_different_within_and_between_processes() -> None:
    ids = [request_ids().of(head(), PEER) for _ in range(100)]
    same = request_ids()
    ids += [same.of(head(), PEER) for _ in range(100)]
    assert len(set(ids)) == 200
    assert all(re.fullmatch(OWN, text) for text in ids)


@pytest.mark.parametrize(
    "text",
    [
        "7b3f6a52-94f1-4b7e-9d3c-0a6a1f1d2e3f",
        "Root=1-67891233-abcdef012345678912345678;Self=1-2",
        "a",
        "x" * 128,
        "YWJj+/==",
    ],
)
def test_id_of_a_proxy_is_taken(text: str) -> None:
    assert request_ids().of(head(("x-request-id", text)), PROXY) == text


@pytest.mark.parametrize("text", ["", "x" * 129, 'a"b', "a b", "a\tb", "a\\b", "<b>", "é", "a,b", "\u2028", "a\n"])
def test_id_that_could_be_anything_else_is_replaced(text: str) -> None:
    assert re.fullmatch(OWN, request_ids().of(head(("x-request-id", text)), PROXY))


def test_id_of_anybody_else_is_replaced() -> None:
    assert re.fullmatch(OWN, request_ids().of(head(("x-request-id", "abc")), PEER))


def test_id_of_a_proxy_that_is_trusted_by_its_address_is_taken() -> None:
    assert request_ids(None, "192.0.2.0/24").of(head(("x-request-id", "abc")), PEER) == "abc"


def test_id_is_read_from_the_field_that_was_named() -> None:
    ids = request_ids("X-Amzn-Trace-Id")
    assert ids.of(head(("x-request-id", "a"), ("x-amzn-trace-id", "b")), PROXY) == "b"


def ids_seen_by_the_application(ids: RequestIds, fields: bytes) -> tuple[object, ...]:
    seen: list[tuple[object, ...]] = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        seen.append((environ["aiowsgi.request_id"], environ.get("HTTP_X_REQUEST_ID"), environ.get("HTTP_X_ID")))
        start_response("204 No Content", [])
        return []

    with ObservedServer(application, ids) as server:
        server.connect().send(b"GET / HTTP/1.1\r\nHost: test\r\n" + fields + b"\r\n")
        server.settle()
        assert seen[0][0] == server.ended[0].request_id
    return seen[0]


def test_application_finds_the_id_and_the_field_as_it_came() -> None:
    own, field, _ = ids_seen_by_the_application(request_ids(), b"X-Request-ID: forged\r\n")
    assert re.fullmatch(OWN, str(own))
    assert field == "forged"


def test_application_finds_the_id_in_the_field_that_was_named() -> None:
    own, _, field = ids_seen_by_the_application(request_ids("X-Id"), b"X-Id: forged\r\n")
    assert re.fullmatch(OWN, str(own))
    assert field == own
