from __future__ import annotations

import base64
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiowsgi.semantics import ConnectionInfo
from aiowsgi.server.access_json import fields_of, make_json_formatter, timestamp
from aiowsgi.server.observed import ObservedExchange
from tests.server.observing import ended_exchange, refused_exchange

FIELDS = (
    ("host", "example.com:8080"),
    ("user-agent", "curl/8"),
    ("referer", "http://example.com/from"),
    ("authorization", "Basic " + base64.b64encode(b"alice:secret").decode()),
)


def line_of(exchange: ObservedExchange) -> dict[str, Any]:
    text = make_json_formatter()(exchange)
    assert re.fullmatch(r"[\x20-\x7e]+\n", text)
    fields: dict[str, Any] = json.loads(text, object_pairs_hook=without_repetition)
    return fields


def without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs), pairs
    return dict(pairs)


def test_line_has_the_names_and_types_of_opentelemetry() -> None:
    fields = line_of(ended_exchange("/a%20b?c=d", FIELDS, request_id="abc"))
    assert abs(datetime.now(UTC) - datetime.fromisoformat(fields.pop("timestamp"))) < timedelta(minutes=1)
    assert isinstance(fields.pop("process.pid"), int)
    assert fields == {
        "severity_text": "INFO",
        "logger": "aiowsgi.access",
        "http.request.method": "GET",
        "url.scheme": "http",
        "url.path": "/a%20b",
        "url.query": "c=d",
        "network.protocol.version": "1.1",
        "client.address": "192.0.2.1",
        "server.address": "example.com",
        "server.port": 8080,
        "user_agent.original": "curl/8",
        "http.request.header.referer": ["http://example.com/from"],
        "user.name": "alice",
        "http.response.status_code": 200,
        "http.response.body.size": 13,
        "http.server.request.duration": 3.75,
        "aiowsgi.queue_time": 2.0,
        "aiowsgi.thread_time": 0.5,
        "aiowsgi.write_time": 1.25,
        "aiowsgi.request_id": "abc",
        "aiowsgi.outcome": "complete",
    }


def test_what_is_not_known_is_left_out() -> None:
    fields = line_of(ended_exchange(connection=ConnectionInfo("https", "", "", "", ""), status_code=0))
    assert fields["url.scheme"] == "https"
    absent = ("client.address", "server.address", "url.query", "user_agent.original", "user.name")
    assert not fields.keys() & {*absent, "http.response.status_code", "http.request.header.referer"}


def test_refused_request_has_the_reason_and_what_was_sent() -> None:
    fields = line_of(refused_exchange('GET "\x00\u2028', 431))
    assert fields["aiowsgi.reason"] == "malformed request line"
    assert fields["aiowsgi.request_line"] == 'GET "\x00\u2028'
    assert fields["http.response.status_code"] == 431
    assert fields["aiowsgi.outcome"] == "refused"
    assert "http.request.method" not in fields


@pytest.mark.parametrize(
    ("host", "address", "port"),
    [
        ("example.com", "example.com", None),
        ("example.com:", "example.com", None),
        ("example.com:0080", "example.com", 80),
        ("[::1]", "[::1]", None),
        ("[::1]:8000", "[::1]", 8000),
    ],
)
def test_server_is_what_the_client_called_it(host: str, address: str, port: int | None) -> None:
    fields = line_of(ended_exchange(fields=(("host", host),)))
    assert (fields["server.address"], fields.get("server.port")) == (address, port)


HOSTILE = st.text(max_size=40)


@given(HOSTILE, HOSTILE, HOSTILE)
def test_value_of_a_client_arrives_as_it_was_and_adds_nothing(path: str, agent: str, referrer: str) -> None:
    path = path.replace("?", "")
    expected = line_of(ended_exchange("/", (("user-agent", "a"), ("referer", "b"))))
    fields = line_of(ended_exchange(path, (("user-agent", agent), ("referer", referrer))))
    assert fields["url.path"] == path
    assert fields["user_agent.original"] == agent
    assert fields["http.request.header.referer"] == [referrer]
    assert fields.keys() == expected.keys()


def test_fields_of_a_record_are_those_of_a_line() -> None:
    exchange = ended_exchange("/a?b", FIELDS)
    line = line_of(exchange)
    fields = fields_of(exchange)
    assert line.items() > fields.items()
    assert line.keys() - fields.keys() == {"timestamp", "severity_text", "logger", "process.pid"}


def test_timestamp_is_rfc_3339_in_utc() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", timestamp())
