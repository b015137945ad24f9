"""The micro-benchmarks do what their names say; how long they take is not tested."""

from __future__ import annotations

import pytest

from aiowsgi.semantics import RequestHead
from bench.micro import benchmarks
from bench.micro.benchmarks import BENCHMARKS, HEADS, PARSERS, RecordingSink

FIELD_COUNTS = {"small head": 1, "browser's head": 10}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmark_can_be_run_over_and_over(name: str) -> None:
    run = BENCHMARKS[name]()
    for _ in range(3):
        assert run()


@pytest.mark.parametrize("parser_name", PARSERS)
@pytest.mark.parametrize("head_name", HEADS)
def test_heads_are_read_whole(parser_name: str, head_name: str) -> None:
    head = HEADS[head_name]
    assert len(list(benchmarks.parse(parser_name, head)())) == FIELD_COUNTS[head_name]
    for request in (benchmarks.read_head(parser_name, head)(), benchmarks.receive_request(parser_name, head)()):
        assert isinstance(request, RequestHead)
        assert len(request.variables) == FIELD_COUNTS[head_name]
    assert benchmarks.make_environ(head)()["HTTP_HOST"] == "www.example.com"


def test_applications_reach_the_sink() -> None:
    hello = benchmarks.run_hello()()
    assert isinstance(hello, RecordingSink)
    assert (hello.head and hello.head.status, hello.size) == ("200 OK", 13)
    assert benchmarks.run_blocks()().size == 200 * 13


def test_response_head_is_whole() -> None:
    data = benchmarks.serialize_response()()
    assert data.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Length: 13\r\n" in data


def test_round_trips_end_where_they_began() -> None:
    assert [benchmarks.pool_round_trip()() for _ in range(2)] == [1, 1]
    assert benchmarks.pool_batch()() == 1
    pieces, ended = benchmarks.pipe_round_trip()()
    assert (len(pieces), ended) == (200, True)


@pytest.mark.parametrize("parser_name", PARSERS)
@pytest.mark.parametrize("head_name", HEADS)
def test_whole_requests_are_all_answered(parser_name: str, head_name: str) -> None:
    answers = benchmarks.whole_requests(parser_name, HEADS[head_name])()
    assert len(answers) == 64
    assert all(
        answer.startswith(b"HTTP/1.1 200 OK\r\n") and answer.endswith(b"\r\n\r\nHello, world!") for answer in answers
    )
