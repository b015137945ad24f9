"""h11 and llhttp behind the policy: the same requests, refusals, content and unread bytes, however the bytes arrive."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aiowsgi.config import Config
from aiowsgi.http.events import Refusal
from aiowsgi.http.policy import RequestPolicy
from tests.http.grammar import Request, bounded, cuts, mutated_requests, requests
from tests.http.reading import (
    SHARED_PARSERS,
    Reading,
    byte_by_byte,
    head_fields,
    new_connection,
    read_request,
    requests_of,
)

PARSERS = ("h11", "httptools")
NEXT_REQUEST = b"GET /next HTTP/1.1\r\nHost: a.example\r\n\r\n"


def expected_reading(request: Request, left_over: bytes) -> Reading:
    head = (
        request.method,
        request.target,
        request.path,
        request.query,
        request.http_version,
        request.variables,
        request.content_length,
        request.persistent,
        request.expect_continue,
    )
    return Reading(head, request.content, True, None, False, len(left_over))


@bounded
@given(request=requests(), left_over=st.sampled_from([b"", NEXT_REQUEST, b"\r\n", b"\x00"]), data=st.data())
def test_generated_request_in_any_pieces_is_read_as_generated(
    request: Request, left_over: bytes, data: st.DataObject
) -> None:
    expected = expected_reading(request, left_over)
    sent = request.data + left_over
    pieces = data.draw(cuts(sent))
    for parser_name in PARSERS:
        assert read_request(new_connection(parser_name), [sent]) == expected
        assert read_request(new_connection(parser_name), pieces) == expected


@bounded
@given(request=requests())
def test_generated_request_cut_short_anywhere_is_never_complete(request: Request) -> None:
    for parser_name in PARSERS:
        connection = new_connection(parser_name)
        for piece in byte_by_byte(request.data[:-1]):
            connection.receive_data(piece)
        reading = read_request(connection, [])
        assert reading.refusal == 400
        assert not reading.complete


@bounded
@given(sent=mutated_requests(), data=st.data())
@example(sent=b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", data=None)
def test_mutated_request_is_read_the_same_by_both_parsers(sent: bytes, data: st.DataObject | None) -> None:
    pieces = (
        list(byte_by_byte(sent)) if data is None else data.draw(st.one_of(cuts(sent), st.just([*byte_by_byte(sent)])))
    )
    in_pieces = [read_request(new_connection(parser_name), pieces) for parser_name in PARSERS]
    whole = [read_request(new_connection(parser_name), [sent]) for parser_name in PARSERS]
    assert in_pieces[0] == in_pieces[1]
    assert whole[0] == whole[1]
    # In pieces the first fault in the bytes decides; whole, the first rule that is checked does: statuses may differ.
    assert _without_status(in_pieces[0]) == _without_status(whole[0])


def _without_status(reading: Reading) -> Reading | bool:
    return reading if reading.refusal is None else True


@bounded
@given(sent=st.one_of(requests().map(lambda request: request.data), mutated_requests()))
@example(sent=b"CONNECT /a HTTP/1.1\r\nHost: a\r\n\r\n")
@example(sent=b"GET / HTTP/1.1\r\nHost: a\r\nX: b \r\n\r\n")
@example(sent=b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"b" * 64 + b"\r\n\r\n")
def test_plain_head_is_read_as_by_the_rules_one_by_one(sent: bytes) -> None:
    policy = RequestPolicy(Config(limit_request_line=64, limit_request_field_size=64, limit_request_fields=5))
    head = sent[: sent.find(b"\r\n\r\n") + 4]
    for parser_name in PARSERS:
        parser = SHARED_PARSERS[parser_name]
        try:
            plain = policy.read_plain_head(head, parser)
        except Refusal as refusal:
            with pytest.raises(Refusal, match=str(refusal.status_code)):
                policy.read_head_by_rules(head, parser)
        else:
            if plain is not None:
                assert head_fields(plain) == head_fields(policy.read_head_by_rules(head, parser))


@bounded
@given(
    sent=st.lists(st.one_of(requests().map(lambda request: request.data), mutated_requests()), min_size=2, max_size=4)
)
def test_requests_of_one_connection_are_read_the_same_by_both_parsers(sent: list[bytes]) -> None:
    stream = b"".join(sent)
    told = []
    for parser_name in PARSERS:
        told.append([repr(event) for event in requests_of(new_connection(parser_name), [stream])])
    assert told[0] == told[1]
