"""Requests that arrive together are read a batch at a time; none is lost on the way, overtaken or kept too long."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from aiowsgi.http.connection import HTTPConnection
from aiowsgi.server.reception import ContentReceiver
from aiowsgi.server.stats import take_stats
from aiowsgi.testing import MemoryServer
from tests.conftest import ServerThread
from tests.simulation.memory import SteppedClient, remains

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

BATCH_SIZE = 4
# What is postponed of one request, at most.
POSTPONED_SIZE = 8 * 1024


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
        self.server = MemoryServer(self.application, header_timeout=10, keep_alive=60, queue_timeout=9999)
        self.server.engine.intake.batch_size = BATCH_SIZE
        self.clients = [SteppedClient(self.server, peername=("192.0.2.1", number)) for number in range(count)]
        self.server.settle()

    def application(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.order.append(environ["PATH_INFO"])
        return path(environ, start_response)

    def ask(self) -> None:
        for number, client in enumerate(self.clients):
            client.send(get(number))

    def ask_before(self, data: bytes) -> SteppedClient:
        """Have all clients but the last begin a request, and the last send something; return that one.

        By then everything has been read from their sockets; what exceeds a batch is postponed.
        """
        *others, last = self.clients
        for number, client in enumerate(others):
            client.send(get(number))
        last.send(data)
        self.turn()
        assert last.memory.unread_size == 0
        return last

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
    # Between two batches the loop looks at its sockets, and lets threads have the interpreter.
    assert counts[:5] == [0, BATCH_SIZE, BATCH_SIZE, 2 * BATCH_SIZE, 2 * BATCH_SIZE]
    assert {later - sooner for sooner, later in itertools.pairwise(counts)} == {0, BATCH_SIZE}
    assert counts[-1] == len(crowd.clients)


def test_crowd_is_answered_in_the_order_of_its_arrival(crowd: Crowd) -> None:
    crowd.ask()
    crowd.server.settle()
    assert crowd.order == [f"/{number}" for number in range(len(crowd.clients))]
    for number, client in enumerate(crowd.clients):
        assert client.receive().content == b"/%d" % number


def test_whoever_comes_later_waits_behind_what_was_postponed(crowd: Crowd) -> None:
    *early, late = crowd.clients
    for number, client in enumerate(early):
        client.send(get(number))
    crowd.turn()
    crowd.turn()
    late.send(get(99))
    crowd.server.settle()
    assert crowd.order == [*(f"/{number}" for number in range(len(early))), "/99"]


def test_whoever_pipelines_overtakes_nobody_for_ever() -> None:
    crowd = Crowd(2 * BATCH_SIZE + 1)
    with crowd.server:
        *pipelining, last = crowd.clients

        def answer() -> None:
            """Have threads answer all that they have been given, before the loop's next turn."""
            while crowd.server.pool.step():
                pass

        # Two batches: as the answers of one are written, and its next requests begun, the other is full.
        for group in pipelining[:BATCH_SIZE], pipelining[BATCH_SIZE:]:
            for client in group:
                client.send(get(0) * 100)
            answer()
            crowd.turn()
        for _ in range(8):
            answer()
            crowd.turn()
        asked_at = len(crowd.order)
        answer()
        last.send(get(99))
        crowd.turn()
        while "/99" not in crowd.order:
            answer()
            crowd.turn()
        assert crowd.order.index("/99") - asked_at <= 6 * BATCH_SIZE


def test_rest_of_a_request_that_was_postponed_follows_its_beginning(crowd: Crowd) -> None:
    last = crowd.ask_before(b"POST /last HTTP/1.1\r\nHost: te")
    last.send(b"st\r\nContent-Length: 4\r\n\r\nrest")
    assert last.receive().content == b"/lastrest"
    assert crowd.order[-1] == "/last"


def test_client_that_ends_its_side_is_answered_what_was_postponed(crowd: Crowd) -> None:
    last = crowd.ask_before(get(99))
    last.end()
    assert last.receive().content == b"/99"
    assert last.at_end()


def test_client_that_ends_its_side_in_what_was_postponed_of_a_head_is_refused(crowd: Crowd) -> None:
    last = crowd.ask_before(b"GET / HT")
    last.end()
    assert last.receive().status_code == 400
    assert last.at_end()


def test_request_of_a_client_that_goes_before_it_is_read_never_runs(crowd: Crowd) -> None:
    last = crowd.ask_before(get(99))
    last.reset()
    crowd.server.settle()
    assert crowd.order == [f"/{number}" for number in range(len(crowd.clients) - 1)]


def test_connection_whose_request_is_postponed_is_not_idle(crowd: Crowd) -> None:
    last = crowd.ask_before(get(99))
    assert sum(connection.idle for connection in crowd.server.engine.connections) == 0
    crowd.server.drain(idle_grace=0)
    response = last.receive()
    assert response.content == b"/99"
    assert response.value("Connection") == "close"


def test_connection_that_has_sent_an_empty_line_is_drained(crowd: Crowd) -> None:
    last = crowd.ask_before(b"\r\n")
    crowd.server.drain(idle_grace=0)
    crowd.server.loop.run_ready()
    assert last.memory.at_end


def test_connection_whose_request_is_postponed_is_reading(crowd: Crowd) -> None:
    crowd.ask()
    crowd.turn()
    connections = take_stats(crowd.server.engine).connections
    assert connections.idle == 0
    assert connections.reading == len(crowd.clients) - BATCH_SIZE
    assert crowd.server.engine.intake.behind
    crowd.server.settle()
    assert take_stats(crowd.server.engine).connections.idle == len(crowd.clients)
    assert not crowd.server.engine.intake.behind


def test_request_of_a_connection_that_is_aborted_is_not_read(crowd: Crowd) -> None:
    crowd.ask()
    crowd.turn()
    for connection in crowd.server.engine.connections:
        if connection.postponed:
            connection.abort()
    crowd.server.settle()
    assert crowd.order == [f"/{number}" for number in range(BATCH_SIZE)]


@pytest.mark.parametrize("ends", [False, True])
def test_empty_line_that_was_postponed_is_no_beginning_of_a_request(crowd: Crowd, ends: bool) -> None:
    last = crowd.ask_before(b"\r\n")
    if ends:
        last.end()
    else:
        crowd.server.advance(crowd.server.config.keep_alive - 1)
        assert not last.memory.at_end
        crowd.server.advance(2)
    assert last.at_end()


def test_head_that_was_postponed_and_never_comes_to_its_end_is_refused(crowd: Crowd) -> None:
    last = crowd.ask_before(b"GET / HT")
    crowd.server.advance(9)
    assert not last.memory.arrived_size
    crowd.server.advance(2)
    assert last.receive().status_code == 408


def test_turn_in_which_no_request_was_complete_postpones_no_later_ones() -> None:
    crowd = Crowd(BATCH_SIZE + 1)
    with crowd.server:
        last = crowd.ask_before(b"GET / HT")
        crowd.server.settle()
        first = crowd.clients[0]
        assert first.receive().content == b"/0"
        first.send(get(99))
        assert first.receive().content == b"/99"
        last.send(b"TP/1.1\r\nHost: test\r\n\r\n")
        assert last.receive().content == b"/"


def test_request_that_was_postponed_is_answered_however_late_the_loop_is(crowd: Crowd) -> None:
    last = crowd.ask_before(get(99))
    crowd.server.loop._time += 1000  # somebody has held it up
    assert last.receive().content == b"/99"


def test_idle_connection_is_closed_however_late_the_loop_is(crowd: Crowd) -> None:
    last = crowd.ask_before(b"\r\n")
    crowd.server.loop._time += 1000
    crowd.server.advance(1)
    assert last.at_end()


def test_turns_are_kept_however_late_the_loop_is(crowd: Crowd) -> None:
    crowd.ask()
    crowd.turn()
    crowd.server.loop._time += 1000
    counts = [crowd.turn() for _ in range(10)]
    assert {later - sooner for sooner, later in itertools.pairwise(counts)} == {0, BATCH_SIZE}
    crowd.server.settle()
    assert crowd.order == [f"/{number}" for number in range(len(crowd.clients))]


def test_large_piece_is_not_postponed(crowd: Crowd) -> None:
    content = bytes(2 * POSTPONED_SIZE)
    last = crowd.ask_before(
        b"POST /large HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % len(content) + content
    )
    assert all(connection._postponed in (b"", *map(get, range(99))) for connection in crowd.server.engine.connections)
    assert last.receive().content == b"/large" + content


def test_what_is_postponed_does_not_grow_without_a_bound(crowd: Crowd) -> None:
    last = crowd.ask_before(b"POST /much HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % (100 * 1000))
    crowd.server.engine.intake.batch_size = 0  # nobody's turn comes
    for _ in range(100):
        last.send(bytes(1000))
        crowd.turn()
        assert all(len(connection._postponed) <= POSTPONED_SIZE for connection in crowd.server.engine.connections)
    crowd.server.engine.intake.batch_size = BATCH_SIZE
    assert last.receive().content == b"/much" + bytes(100 * 1000)


def test_upload_whose_head_was_postponed_is_received_in_its_place(crowd: Crowd) -> None:
    size = 200 * 1024
    head = b"POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n" % size
    last = crowd.clients[-1]
    last.send(head + bytes(20_000))
    crowd.server.settle()
    last.send(bytes(size - 20_000))
    assert last.receive().content == b"/upload" + bytes(size)
    (connection,) = (each for each in crowd.server.engine.connections if each._receiver is not None)
    assert isinstance(connection._transport.get_protocol(), ContentReceiver)
    crowd.ask_before(b"")
    last.send(head)
    crowd.turn()
    assert connection._postponed == head
    assert isinstance(connection._transport.get_protocol(), ContentReceiver)
    last.send(bytes(size))
    assert last.receive().content == b"/upload" + bytes(size)


def test_small_queue_is_filled_no_faster_than_it_is_emptied() -> None:
    with MemoryServer(path, queue_size=1) as server:
        clients = [SteppedClient(server) for _ in range(12)]
        server.settle()
        for client in clients:
            client.send(get(0))
        while any(not client.memory.arrived_size for client in clients):
            server.loop.run_turn()
            server.pool.step()  # a thread that keeps up
        assert [client.receive().status_code for client in clients] == [200] * 12


def test_error_in_one_connection_keeps_no_other_waiting(
    crowd: Crowd, monkeypatch: pytest.MonkeyPatch, error_log: pytest.LogCaptureFixture
) -> None:
    crowd.ask()
    crowd.turn()
    broken = next(connection for connection in crowd.server.engine.connections if connection._postponed == get(9))
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


def test_error_of_the_pool_makes_nobody_deaf(monkeypatch: pytest.MonkeyPatch) -> None:
    crowd = Crowd(3 * BATCH_SIZE)
    with crowd.server:
        crowd.ask()
        monkeypatch.setattr(crowd.server.pool, "submit", MemoryErrors(1, crowd.server.pool.submit))
        with pytest.raises(MemoryError):
            crowd.server.settle()
        for number, client in list(enumerate(crowd.clients))[BATCH_SIZE:]:  # the first batch went with the error
            assert client.receive().content == b"/%d" % number
        late = crowd.clients[-1]
        late.send(get(99))
        assert late.receive().content == b"/99"


class MemoryErrors:
    """Fails so many times, then does as it should."""

    def __init__(self, count: int, function: Callable[..., object]) -> None:
        self.count = count
        self.function = function

    def __call__(self, *arguments: object) -> object:
        if self.count:
            self.count -= 1
            raise MemoryError
        return self.function(*arguments)


def test_crowd_on_sockets_is_answered_round_after_round(serve: Callable[..., ServerThread]) -> None:
    server = serve(path, backlog=512)
    server.server.engine.intake.batch_size = 8
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(200)]
        for _ in range(3):
            for number, client in enumerate(clients):
                client.send(get(number))
            for number, client in enumerate(clients):
                assert client.receive().content == b"/%d" % number
