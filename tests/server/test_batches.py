"""Requests that arrive together are read a batch at a time; none is lost on the way, overtaken or kept too long."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from aiowsgi.http.connection import HTTPConnection
from aiowsgi.testing import MemoryServer
from tests.conftest import ServerThread
from tests.simulation.memory import GET, SteppedClient, hello, remains

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

BATCH_SIZE = 4
# What is put off, at most.
KEPT_SIZE = 8 * 1024


def path(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    content = environ["wsgi.input"].read()
    start_response("200 OK", [])
    return [environ["PATH_INFO"].encode(), content]


def get(number: int) -> bytes:
    return b"GET /%d HTTP/1.1\r\nHost: test\r\n\r\n" % number


class Crowd:
    """A server with small batches, and clients that all have something for it in the same turn of its loop."""

    def __init__(self, count: int) -> None:
        self.order: list[str] = []
        self.server = MemoryServer(self.application, header_timeout=10, keep_alive=60)
        self.server.engine.batch_size = BATCH_SIZE
        self.clients = [SteppedClient(self.server) for _ in range(count)]
        self.server.settle()

    def application(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.order.append(environ["PATH_INFO"])
        return path(environ, start_response)

    def ask(self) -> None:
        for number, client in enumerate(self.clients):
            client.send(get(number))

    def turn(self) -> int:
        """Let the loop have a turn; return how many requests wait for a thread."""
        self.server.loop.run_turn()
        return self.server.pool.waiting_count


@pytest.fixture
def crowd() -> Iterator[Crowd]:
    crowd = Crowd(3 * BATCH_SIZE)
    with crowd.server:
        yield crowd
        for client in crowd.clients:
            client.close()
        crowd.server.settle()
        assert not remains(crowd.server)


def test_crowd_is_read_a_batch_at_a_time(crowd: Crowd) -> None:
    crowd.ask()
    counts = [crowd.turn() for _ in range(10)]
    assert {later - sooner for sooner, later in itertools.pairwise(counts)} == {0, BATCH_SIZE}
    assert counts[-1] == len(crowd.clients)


def test_crowd_is_answered_in_the_order_of_its_arrival(crowd: Crowd) -> None:
    crowd.ask()
    crowd.server.settle()
    assert crowd.order == [f"/{number}" for number in range(len(crowd.clients))]
    for number, client in enumerate(crowd.clients):
        assert client.receive().content == b"/%d" % number


def test_whoever_comes_later_waits_behind_what_was_put_off(crowd: Crowd) -> None:
    *early, late = crowd.clients
    for number, client in enumerate(early):
        client.send(get(number))
    crowd.turn()  # all of them have been read from
    crowd.turn()
    late.send(get(99))
    crowd.server.settle()
    assert crowd.order == [*(f"/{number}" for number in range(len(early))), "/99"]


def test_rest_of_a_request_that_was_put_off_follows_its_beginning(crowd: Crowd) -> None:
    *others, last = crowd.clients
    for number, client in enumerate(others):
        client.send(get(number))
    last.send(b"POST /last HTTP/1.1\r\nHost: te")
    crowd.turn()
    assert last.memory.unread_size == 0
    last.send(b"st\r\nContent-Length: 4\r\n\r\nrest")
    assert last.receive().content == b"/lastrest"


def test_client_that_ends_its_side_is_answered_what_was_put_off(crowd: Crowd) -> None:
    crowd.ask()
    crowd.turn()
    last = crowd.clients[-1]
    last.end()
    assert last.receive().content == b"/%d" % (len(crowd.clients) - 1)
    assert last.at_end()


def test_request_of_a_client_that_goes_before_it_is_looked_at_never_runs(crowd: Crowd) -> None:
    crowd.ask()
    crowd.turn()
    crowd.clients[-1].reset()
    crowd.server.settle()
    assert crowd.order == [f"/{number}" for number in range(len(crowd.clients) - 1)]


def test_connection_whose_request_is_put_off_is_not_idle(crowd: Crowd) -> None:
    crowd.ask()
    crowd.turn()
    crowd.server.drain(idle_grace=0)
    for number, client in enumerate(crowd.clients):
        response = client.receive()
        assert response.content == b"/%d" % number
        assert response.value("Connection") == "close"


def test_empty_line_that_was_put_off_is_no_beginning_of_a_request(crowd: Crowd) -> None:
    *others, last = crowd.clients
    for number, client in enumerate(others):
        client.send(get(number))
    last.send(b"\r\n")
    crowd.server.settle()
    last.end()
    assert last.at_end()


def test_head_that_was_put_off_and_never_comes_to_its_end_is_refused(crowd: Crowd) -> None:
    *others, last = crowd.clients
    for number, client in enumerate(others):
        client.send(get(number))
    last.send(b"GET / HT")
    crowd.server.advance(9)
    assert not last.memory.arrived_size
    crowd.server.advance(2)
    assert last.receive().status_code == 408


def test_large_piece_is_not_kept(crowd: Crowd) -> None:
    *others, last = crowd.clients
    for number, client in enumerate(others):
        client.send(get(number))
    content = bytes(2 * KEPT_SIZE)
    last.send(b"POST /large HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % len(content) + content)
    crowd.turn()
    assert crowd.server.engine.sated
    assert not any(len(connection._kept) > KEPT_SIZE for connection in crowd.server.engine.connections)
    assert last.receive().content == b"/large" + content


def test_error_in_one_connection_keeps_no_other_waiting(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch, error_log: pytest.LogCaptureFixture
) -> None:
    crowd.ask()
    crowd.turn()
    broken = next(connection for connection in crowd.server.engine.connections if connection._kept == get(9))

    receive_data = HTTPConnection.receive_data

    def fail(connection: HTTPConnection, data: bytes) -> Any:
        if connection is broken._http:
            raise ZeroDivisionError
        return receive_data(connection, data)

    monkeypatch.setattr(HTTPConnection, "receive_data", fail)
    crowd.server.settle()
    assert "internal error while reading from" in error_log.text
    assert crowd.order == [f"/{number}" for number in range(len(crowd.clients)) if number != 9]
    assert crowd.clients[9].memory.was_reset or crowd.clients[9].at_end()


def test_thousand_connections_are_all_answered_round_after_round(serve: Callable[..., ServerThread]) -> None:
    server = serve(hello, backlog=2048)
    clients = [server.connect() for _ in range(1000)]
    for _ in range(3):
        for client in clients:
            client.send(GET)
        for client in clients:
            assert client.receive().content == b"hello"
    for client in clients:
        client.close()
