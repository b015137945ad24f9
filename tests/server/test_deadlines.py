"""Deadlines: the structure by itself, and what each of them does to a connection. Time is virtual."""

from __future__ import annotations

import io
import logging
import math
import random
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import pytest

from aiowsgi.server.content import ContentBuffer
from aiowsgi.server.deadlines import NEVER, Deadlines
from aiowsgi.testing import MemoryServer, VirtualLoop
from tests.simulation.memory import GET, NothingArrived, SteppedClient, blocks, each_path, hello, remains

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

# Deadlines are met late by up to this much.
LATE = 0.125


class Holder:
    """Something with a deadline that notes when it passed."""

    def __init__(self, loop: VirtualLoop, then: Callable[[], object] = bool) -> None:
        self.deadline = NEVER
        self.looked_at = NEVER
        self.passed: list[float] = []
        self._loop = loop
        self._then = then

    def deadline_passed(self, now: float) -> None:
        assert now == self._loop.time()
        self.passed.append(now)
        self._then()


class StandingLoop(VirtualLoop):
    """A loop that may stand still, as in SIGSTOP."""

    def stand_still(self, seconds: float) -> None:
        """Let time pass, and then have only the timers run."""
        self._time += seconds
        self.run_turn()


class StandingServer(MemoryServer):
    """A server whose loop may stand still."""

    def make_loop(self) -> VirtualLoop:
        return StandingLoop()

    def stand_still(self, seconds: float) -> None:
        assert isinstance(self.loop, StandingLoop)
        self.loop.stand_still(seconds)


@pytest.fixture
def loop() -> VirtualLoop:
    return VirtualLoop(0.0)


# The structure.


def test_deadline_passes_once_and_never_early(loop: VirtualLoop) -> None:
    deadlines = Deadlines(loop)
    rng = random.Random(1)
    times = [rng.uniform(0, 100) for _ in range(500)]
    # Next to the edges of buckets, where rounding could go either way.
    times += [math.nextafter(k / 10, towards) for k in range(1, 500) for towards in (-math.inf, math.inf)]
    holders = [(when, Holder(loop)) for when in times]
    for when, holder in holders:
        deadlines.set(holder, when)
    loop.advance(101)
    for when, holder in holders:
        assert len(holder.passed) == 1
        assert when <= holder.passed[0] <= when + LATE


def test_deadline_moved_later_by_assignment_passes_at_its_new_time(loop: VirtualLoop) -> None:
    deadlines, holder = Deadlines(loop), Holder(loop)
    deadlines.set(holder, 1.0)
    holder.deadline = 5.0
    loop.advance(4.9)
    assert holder.passed == []
    loop.advance(0.1 + LATE)
    assert len(holder.passed) == 1


def test_deadline_moved_earlier_passes_at_its_new_time(loop: VirtualLoop) -> None:
    deadlines, holder = Deadlines(loop), Holder(loop)
    deadlines.set(holder, 60.0)
    deadlines.set(holder, 1.0)
    loop.advance(1 + LATE)
    assert len(holder.passed) == 1
    loop.advance(100)
    assert len(holder.passed) == 1


def test_deadline_taken_back_never_passes(loop: VirtualLoop) -> None:
    deadlines, removed, never = Deadlines(loop), Holder(loop), Holder(loop)
    deadlines.set(removed, 1.0)
    deadlines.set(never, 1.0)
    deadlines.remove(removed)
    deadlines.set(never, NEVER)
    loop.advance(10)
    assert removed.passed == never.passed == []


def test_deadline_removed_by_another_of_the_same_moment_never_passes(loop: VirtualLoop) -> None:
    deadlines = Deadlines(loop)
    holders: list[Holder] = []

    def remove_others() -> None:
        for other in holders:
            if not other.passed:
                deadlines.remove(other)

    holders.extend(Holder(loop, remove_others) for _ in range(10))
    for holder in holders:
        deadlines.set(holder, 1.0)
    loop.advance(10)
    assert sum(len(holder.passed) for holder in holders) == 1


def test_deadline_set_in_the_past_waits_for_the_next_turn_of_the_loop(loop: VirtualLoop) -> None:
    deadlines = Deadlines(loop)
    holder = Holder(loop, lambda: len(holder.passed) < 3 and deadlines.set(holder, 0.5))
    other = Holder(loop)
    deadlines.set(holder, 1.0)
    deadlines.set(other, 1.0)
    while not holder.passed:
        loop.advance(LATE)
    assert other.passed
    loop.advance(1)
    assert len(holder.passed) == 3


def test_deadline_whose_holder_fails_is_logged_and_the_others_pass(
    loop: VirtualLoop, caplog: pytest.LogCaptureFixture
) -> None:
    deadlines = Deadlines(loop)

    def fail() -> None:
        raise RuntimeError("fault of a test")

    failing, sound = [Holder(loop, fail) for _ in range(3)], [Holder(loop) for _ in range(3)]
    for holder in (*failing, *sound):
        deadlines.set(holder, 1.0)
    loop.advance(2)
    assert all(len(holder.passed) == 1 for holder in (*failing, *sound))
    assert len(caplog.records) == 3


def test_deadlines_of_ten_thousand_holders_use_one_timer(loop: VirtualLoop) -> None:
    deadlines = Deadlines(loop)
    rng = random.Random(1)
    holders = [Holder(loop) for _ in range(10_000)]
    for _ in range(3):
        for holder in holders:
            deadlines.set(holder, rng.uniform(1, 100))
    assert loop.timer_count == 1
    deadlines.close()
    assert loop.timer_count == 0
    loop.advance(200)
    assert not any(holder.passed for holder in holders)


# A loop that stands still. What is sent after that turn has lain in the kernel.


def test_deadline_that_passed_while_the_loop_stood_still_leaves_another_moment_and_no_more() -> None:
    loop = StandingLoop(0.0)
    deadlines, holder, other = Deadlines(loop), Holder(loop), Holder(loop)
    deadlines.set(holder, 1.0)
    loop.stand_still(10)
    deadlines.set(other, 5.0)  # in the past
    loop.advance(0.2)
    assert holder.passed == other.passed == []
    loop.advance(0.1)
    assert len(holder.passed) == len(other.passed) == 1


def test_deadline_in_a_loop_that_is_always_late_passes_at_the_second_look() -> None:
    loop = StandingLoop(0.0)
    deadlines, holders = Deadlines(loop), [Holder(loop) for _ in range(3)]
    for holder in holders:
        deadlines.set(holder, loop.time() + 1)
        for _ in range(3):
            loop.stand_still(1)
        assert len(holder.passed) == 1


def test_deadline_of_a_loop_that_is_a_little_late_passes_at_once() -> None:
    loop = StandingLoop(0.0)
    deadlines, holder = Deadlines(loop), Holder(loop)
    deadlines.set(holder, 1.0)
    loop.stand_still(1.2)
    assert len(holder.passed) == 1


@pytest.mark.parametrize("sent_size", [0, 10, len(GET), len(GET) + 10])
def test_head_that_came_while_the_loop_stood_still_is_answered(sent_size: int) -> None:
    with StandingServer(hello) as server:
        client = SteppedClient(server)
        client.send((GET * 2)[:sent_size])
        server.settle()
        server.stand_still(3600)
        client.send((GET * 2)[sent_size:])
        for _ in range(2):
            assert client.receive().status_code == 200
        server.advance(1)
        assert client.get().status_code == 200


def test_content_that_came_while_the_loop_stood_still_is_answered() -> None:
    with StandingServer(hello) as server:
        client = SteppedClient(server)
        client.send(POST % 10 + b"half ")
        server.settle()
        server.stand_still(3600)
        client.send(b"of it")
        assert client.receive().status_code == 200


def test_head_that_did_not_come_while_the_loop_stood_still_is_408() -> None:
    with StandingServer(hello) as server:
        client = SteppedClient(server)
        client.send(GET[:10])
        server.settle()
        server.stand_still(3600)
        client.send(GET[10:11])
        server.advance(0.25)
        assert client.receive().status_code == 408


# Heads.


def test_head_of_a_byte_a_second_is_408_at_header_timeout() -> None:
    with MemoryServer(hello, header_timeout=10) as server:
        client = SteppedClient(server)
        for byte in GET[:9]:
            client.send(bytes([byte]))
            server.advance(1)
        assert client.memory.arrived_size == 0
        client.send(b"H")
        server.advance(1 + LATE)
        response = client.receive()
        assert response.status_code == 408
        assert response.value("Connection") == "close"
        assert client.at_end()


def test_head_timeout_begins_anew_with_each_request() -> None:
    with MemoryServer(hello, header_timeout=10) as server:
        client = SteppedClient(server)
        for _ in range(3):
            client.send(GET[:10])
            server.advance(9)
            client.send(GET[10:])
            assert client.receive().status_code == 200
            server.advance(9)


def test_connection_that_sends_nothing_is_closed_without_an_answer() -> None:
    with MemoryServer(hello, header_timeout=10, keep_alive=5) as server:
        client = SteppedClient(server)
        server.advance(9.9)
        assert not client.at_end()
        server.advance(0.1 + LATE)
        assert client.at_end()
        assert not remains(server)


def test_head_begun_by_an_empty_line_is_not_due() -> None:
    # RFC 9112 §2.2: a client may send CRLF after a request's content; that is not the beginning of another.
    with MemoryServer(hello, header_timeout=10, keep_alive=60) as server:
        client = SteppedClient(server)
        client.post(b"content")
        client.send(b"\r\n")
        server.advance(50)
        assert client.get().status_code == 200


# Content.

POST = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n"


def test_content_that_stops_is_408_after_body_timeout() -> None:
    with MemoryServer(hello, body_timeout=30) as server:
        client = SteppedClient(server)
        client.send(POST % 10_000 + bytes(9_000))
        server.advance(29.9)
        assert client.memory.arrived_size == 0
        server.advance(0.1 + LATE)
        assert client.receive().status_code == 408
        assert client.at_end()
        assert server.engine.content_budget.used == 0


@pytest.mark.parametrize("chunked", [False, True])
def test_content_of_a_byte_a_second_gains_nothing(chunked: bool) -> None:
    with MemoryServer(hello, body_timeout=30, body_min_rate=240) as server:
        client = SteppedClient(server)
        client.send(
            b"POST / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n" if chunked else POST % 10_000
        )
        seconds = 0
        while not client.memory.arrived_size:
            client.send(b"1\r\nx\r\n" if chunked else b"x")
            server.advance(1)
            seconds += 1
        assert 30 <= seconds <= 32
        assert client.receive().status_code == 408


def test_content_faster_than_body_min_rate_may_take_its_time() -> None:
    with MemoryServer(hello, body_timeout=30, body_min_rate=240) as server:
        client = SteppedClient(server)
        client.send(POST % (250 * 300))
        for _ in range(300):
            client.send(bytes(250))
            server.advance(1)
        assert client.receive().status_code == 200


def test_content_without_body_min_rate_may_dribble() -> None:
    with MemoryServer(hello, body_timeout=30, body_min_rate=0) as server:
        client = SteppedClient(server)
        client.send(POST % 20)
        for _ in range(20):
            client.send(b"x")
            server.advance(29)
        assert client.receive().status_code == 200


def test_content_that_waits_for_the_disk_is_not_the_client_s_fault() -> None:
    with MemoryServer(hello, body_timeout=30, request_buffer=100) as server:
        client = SteppedClient(server)
        client.send(POST % 1000 + bytes(500))
        server.loop.run_ready()
        assert server.io_pool.waiting_count == 1
        server.loop.advance(100)  # and no file job moves
        client.send(bytes(500))
        assert client.receive().status_code == 200


# Writing.


def test_response_that_is_not_taken_is_reset_after_write_timeout() -> None:
    application = blocks(1000, 10_000)
    with MemoryServer(application, write_timeout=60) as server:
        client = SteppedClient(server)
        client.send(GET)
        server.settle()
        assert server.pool.stats().stalled == 1
        server.advance(59.9)
        assert not client.memory.was_reset
        server.advance(0.1 + LATE)
        assert client.memory.was_reset
        assert application.closed == 1
        assert not remains(server)


def test_response_taken_a_byte_a_second_is_reset() -> None:
    with MemoryServer(blocks(1000, 10_000), write_timeout=60, write_min_rate=240) as server:
        client = SteppedClient(server)
        client.send(GET)
        seconds = 0
        while not client.memory.was_reset:
            server.advance(1)
            client.memory.read(1)
            seconds += 1
        assert 59 <= seconds <= 122  # the first period may have had the kernel's buffer filled in it
        server.settle()
        assert not remains(server)


def test_response_taken_faster_than_write_min_rate_may_take_its_time() -> None:
    with MemoryServer(blocks(20, 10_000), write_timeout=60, write_min_rate=240, kernel_size=4096) as server:
        client = SteppedClient(server)
        client.send(GET)
        size = 0
        while size < 200_000:
            server.advance(1)
            size += len(client.memory.read(300))
        assert not client.memory.was_reset


def test_response_whole_that_is_not_taken_is_reset_after_write_timeout() -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [bytes(1_000_000)]

    with MemoryServer(application, write_timeout=60) as server:
        client = SteppedClient(server)
        client.send(GET)
        server.settle()
        assert not server.engine.exchanges
        server.advance(60 + LATE)
        assert client.memory.was_reset
        assert not remains(server)


def test_response_small_that_is_not_taken_is_reset_after_keep_alive_and_write_timeout() -> None:
    # Too little for the transport to ask for a pause: only a deadline watches over it, at first that of an idle
    # connection.
    with MemoryServer(blocks(1, 30_000), write_timeout=60, keep_alive=10, kernel_size=1000) as server:
        client = SteppedClient(server)
        client.send(GET)
        server.advance(60)
        assert not client.memory.was_reset
        server.advance(10 + 2 * LATE)
        assert client.memory.was_reset
        assert not remains(server)


def test_response_while_the_application_is_slow_has_no_deadline() -> None:
    going_on: list[bool] = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Length", "6")])
        yield b"one"
        server.pool.wait_until(lambda: bool(going_on))
        yield b"two"

    with MemoryServer(application) as server:
        client = SteppedClient(server)
        client.send(GET)
        server.advance(3600)
        going_on.append(True)
        assert client.receive().content == b"onetwo"


def test_response_behind_an_unread_one_is_not_reset_by_the_queue_s_deadline() -> None:
    going_on: list[bool] = []

    def slow(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        server.pool.wait_until(lambda: bool(going_on))
        return hello(environ, start_response)

    application = each_path(first=blocks(1, 10_000), slow=slow)
    with MemoryServer(application, queue_timeout=1, write_timeout=60, kernel_size=1000) as server:
        client = SteppedClient(server)
        client.send(b"GET /first HTTP/1.1\r\nHost: test\r\n\r\nGET /slow HTTP/1.1\r\nHost: test\r\n\r\n")
        server.advance(5)
        assert not client.memory.was_reset
        going_on.append(True)
        assert client.receive().content == bytes(10_000)
        assert client.receive().content == b"hello"


# Keeping alive.


def test_connection_idle_is_closed_after_keep_alive() -> None:
    with MemoryServer(hello, keep_alive=75) as server:
        client = SteppedClient(server)
        client.get()
        server.advance(74.9)
        assert not client.at_end()
        server.advance(0.1 + LATE)
        assert client.at_end()
        assert not remains(server)


def test_connection_with_keep_alive_0_is_closed_after_each_response() -> None:
    with MemoryServer(hello, keep_alive=0) as server:
        client = SteppedClient(server)
        response = client.get()
        assert response.status_code == 200
        assert response.value("Connection") == "close"
        assert client.at_end()


def test_connection_whose_client_leaves_it_open_is_closed_in_the_end() -> None:
    with MemoryServer(hello, keep_alive=0) as server:
        client = SteppedClient(server)
        client.get()
        assert client.at_end()
        server.advance(4.9)
        assert server.engine.connections
        server.advance(0.1 + LATE)
        assert not remains(server)


@pytest.mark.parametrize("request_line", [b"GET / HTTP/1.1\r\nConnection: close", b"GET / HTTP/1.0"])
def test_connection_whose_client_said_that_nothing_follows_is_closed_at_once(request_line: bytes) -> None:
    with MemoryServer(hello) as server:
        client = SteppedClient(server)
        client.send(request_line + b"\r\nHost: test\r\n\r\n")
        server.settle()
        assert not remains(server)
        assert client.receive().status_code == 200
        assert client.at_end()


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\nG",
        b"POST / HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: test\r\nConnection: close\r\nContent-Length: 1\r\n\r\na",
        b"POST / HTTP/1.0\r\nHost: test\r\nContent-Length: 1\r\n\r\na",
    ],
    ids=["request begun", "empty content", "content", "content of HTTP/1.0"],
)
def test_connection_whose_client_may_send_on_is_not_reset(data: bytes) -> None:
    """RFC 9112 sections 9.6 and 2.2: a client that sends on, an empty line after content."""
    with MemoryServer(hello) as server:
        client = SteppedClient(server)
        client.send(data)
        server.settle()
        assert server.engine.connections
        client.send(b"\r\n")
        server.settle()
        assert client.receive().status_code == 200
        assert client.at_end()


def test_connections_ten_thousand_idle_leave_a_handful_of_timers() -> None:
    with MemoryServer(hello) as server:
        clients = [SteppedClient(server) for _ in range(10_000)]
        for client in clients:
            client.send(GET)
        server.settle()
        assert len(server.engine.connections) == 10_000
        assert server.loop.timer_count <= 2
        clients[0].receive()
        server.advance(75 + LATE)
        assert not remains(server)


def test_connections_of_all_ages_leave_a_handful_of_timers() -> None:
    with MemoryServer(hello) as server:
        for _ in range(500):
            client = SteppedClient(server)
            client.get()
            client.send(GET[:7])
            server.advance(0.013)
        assert server.loop.timer_count <= 2


# Waiting for a thread.


def test_request_that_waits_too_long_is_503_and_never_runs() -> None:
    called = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        called.append(environ)
        return hello(environ, start_response)

    with MemoryServer(application, queue_timeout=30) as server:
        client = SteppedClient(server)
        client.send(GET)
        server.loop.advance(29.9)
        assert client.memory.arrived_size == 0
        server.loop.advance(0.1 + LATE)
        assert client.memory.arrived_size
        response = client.receive()
        assert response.status_code == 503
        assert response.value("Retry-After") == "1"
        assert client.at_end()
        assert not called
        assert not server.pool.waiting_count


def test_request_beyond_queue_size_is_503_at_once() -> None:
    with MemoryServer(hello, queue_size=3) as server:
        clients = [SteppedClient(server) for _ in range(5)]
        for client in clients:
            client.send(GET)
        server.loop.run_ready()
        assert [bool(client.memory.arrived_size) for client in clients] == [False, False, False, True, True]
        responses = [client.receive() for client in clients]
        assert [response.status_code for response in responses] == [200, 200, 200, 503, 503]
        assert {response.value("Retry-After") for response in responses[3:]} == {"1"}


# Content that is streamed to the application.


def reader(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    size = len(environ["wsgi.input"].read())
    start_response("200 OK", [])
    return [b"%d" % size]


def test_stream_that_stops_while_the_application_reads_is_408() -> None:
    with MemoryServer(reader, stream_body=True, body_timeout=30) as server:
        client = SteppedClient(server)
        client.send(POST % 10_000 + bytes(9_000))
        server.advance(29.9)
        assert server.pool.stats().stalled == 1
        server.advance(0.1 + LATE)
        assert client.receive().status_code == 408
        assert client.at_end()
        client.close()
        server.settle()
        assert not remains(server)


def test_stream_of_a_byte_a_second_gains_nothing() -> None:
    with MemoryServer(reader, stream_body=True, body_timeout=30) as server:
        client = SteppedClient(server)
        client.send(POST % 10_000)
        seconds = 0
        while not client.memory.arrived_size:
            client.send(b"x")
            server.advance(1)
            seconds += 1
        assert 30 <= seconds <= 32
        assert client.receive().status_code == 408


@pytest.mark.parametrize("queue_timeout", [1, 30, 300])
def test_stream_has_all_of_body_timeout_whatever_the_queue_s(queue_timeout: float) -> None:
    with MemoryServer(reader, stream_body=True, body_timeout=30, queue_timeout=queue_timeout) as server:
        client = SteppedClient(server)
        client.send(POST % 3)
        server.advance(29)
        client.send(b"abc")
        assert client.receive().content == b"3"


@pytest.mark.parametrize("queue_timeout", [1, 30, 300])
def test_stream_that_the_application_does_not_read_has_no_deadline(queue_timeout: float) -> None:
    going_on: list[bool] = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        server.pool.wait_until(lambda: bool(going_on))
        return reader(environ, start_response)

    with MemoryServer(application, stream_body=True, body_timeout=30, queue_timeout=queue_timeout) as server:
        client = SteppedClient(server)
        client.send(POST % 1000 + bytes(10))
        server.advance(100)
        assert client.memory.arrived_size == 0
        client.send(bytes(990))
        going_on.append(True)
        assert client.receive().content == b"1000"


def test_stream_that_was_full_for_long_has_all_of_body_timeout() -> None:
    going_on: list[bool] = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        server.pool.wait_until(lambda: bool(going_on))
        return reader(environ, start_response)

    with MemoryServer(application, stream_body=True, body_timeout=30, request_buffer=10) as server:
        client = SteppedClient(server)
        client.send(POST % 23 + bytes(20))
        server.advance(100)
        going_on.append(True)
        server.advance(29)
        client.send(b"abc")
        assert client.receive().content == b"23"


def test_stream_that_is_full_at_each_byte_gains_nothing() -> None:
    with MemoryServer(reader, stream_body=True, body_timeout=30, request_buffer=0) as server:
        client = SteppedClient(server)
        client.send(POST % 10_000)
        seconds = 0
        while not client.memory.arrived_size:
            client.send(b"x")
            server.advance(1)
            seconds += 1
        assert 30 <= seconds <= 32
        assert client.receive().status_code == 408


def test_stream_whose_100_continue_comes_late_has_all_of_body_timeout() -> None:
    going_on: list[bool] = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        server.pool.wait_until(lambda: bool(going_on))
        return reader(environ, start_response)

    with MemoryServer(application, stream_body=True, body_timeout=30) as server:
        client = SteppedClient(server)
        client.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
        server.advance(100)
        assert client.memory.arrived_size == 0
        going_on.append(True)
        server.advance(29)
        assert client.memory.arrived_size
        client.send(b"abc")
        response = client.receive()
        assert response.content == b"3"
        assert response.interim == [b"HTTP/1.1 100 Continue"]


def echo(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Length", environ["CONTENT_LENGTH"])])
    while block := environ["wsgi.input"].read(1000):
        yield block


def test_stream_echoed_that_stops_ends_the_connection() -> None:
    with MemoryServer(echo, stream_body=True, body_timeout=30) as server:
        client = SteppedClient(server)
        client.send(POST % 10_000 + bytes(5_000))
        server.advance(29)
        assert client.memory.arrived_size > 5_000
        server.advance(1 + 5_000 / 240)
        assert client.memory.was_reset
        server.settle()
        assert not remains(server)


def answers_first(size: int) -> Any:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        yield bytes(size)
        yield b"%d" % len(environ["wsgi.input"].read())

    return application


def test_stream_awaited_after_a_response_that_was_taken_late_has_a_deadline() -> None:
    with MemoryServer(answers_first(150_000), stream_body=True, body_timeout=30, write_timeout=60) as server:
        client = SteppedClient(server)
        client.send(POST % 10)
        server.advance(10)
        assert server.pool.stats().stalled == 1
        while client.memory.read():
            server.settle()
        server.advance(60 + 2 * LATE)
        assert client.memory.was_reset
        server.settle()
        assert not remains(server)


def test_stream_that_arrives_does_not_excuse_a_response_that_is_not_taken() -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        while True:
            yield bytes(10_000)

    options = {"stream_body": True, "body_timeout": 30, "write_timeout": 60, "request_buffer": 5_000}
    with MemoryServer(application, **options) as server:
        client = SteppedClient(server)
        client.send(POST % 1_000_000)
        for _ in range(130):
            client.memory.send(bytes(300))  # more than the application ever reads
            server.advance(1)
            if client.memory.was_reset:
                break
        assert client.memory.was_reset
        server.settle()
        assert not remains(server)


def test_stream_that_arrives_does_not_shorten_write_timeout() -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [])
        for _ in range(40):
            yield bytes(10_000)
        yield b"%d" % len(environ["wsgi.input"].read())

    with MemoryServer(application, stream_body=True, body_timeout=5, write_timeout=60) as server:
        client = SteppedClient(server)
        client.send(POST % 10 + b"12345")
        server.advance(1)
        client.send(b"6789")
        server.advance(50)
        assert not client.memory.was_reset
        client.send(b"0")
        assert client.receive().content[-2:] == b"10"


# Draining.


def test_drain_closes_idle_connections_after_a_grace() -> None:
    with MemoryServer(hello) as server:
        idle, fresh = SteppedClient(server), SteppedClient(server)
        idle.get()
        server.drain(0.1)
        server.advance(0.05)
        assert not idle.at_end()
        assert not fresh.at_end()
        fresh.send(GET)  # it was on its way
        response = fresh.receive()
        assert response.status_code == 200
        assert response.value("Connection") == "close"
        server.advance(0.1)
        assert idle.at_end()
        server.advance(0.5 + LATE)
        assert server.at_rest
        assert not remains(server)


def test_drain_waits_for_a_slow_reader_and_not_longer() -> None:
    with MemoryServer(blocks(2, 100_000), kernel_size=1000) as server:
        client = SteppedClient(server)
        client.send(GET)
        server.settle()
        server.drain()
        server.advance(5)
        assert len(client.receive().content) == 200_000
        client.close()
        server.settle()
        assert server.at_rest


def test_drain_ends_once_the_last_response_is_taken() -> None:
    # The client leaves the connection open: it is closed soon after the response has gone out, not a minute later.
    with MemoryServer(blocks(2, 100_000), kernel_size=1000, keep_alive=75) as server:
        client = SteppedClient(server)
        client.send(GET)
        server.settle()
        server.drain()
        server.advance(1)
        assert len(client.receive().content) == 200_000
        server.advance(6)
        assert server.at_rest


def test_drain_answers_what_has_been_read_ahead_of_a_client_that_reads_late() -> None:
    application = each_path(large=blocks(1, 500_000), hello=hello)
    with MemoryServer(application, kernel_size=1000) as server:
        client = SteppedClient(server)
        client.send(b"GET /large HTTP/1.1\r\nHost: test\r\n\r\n")
        server.settle()
        server.drain()
        server.advance(5)
        assert len(client.receive().content) == 500_000
        server.advance(6)
        assert server.at_rest


def test_drain_gives_a_head_and_content_on_their_way_their_time() -> None:
    with MemoryServer(hello) as server:
        head, content = SteppedClient(server), SteppedClient(server)
        head.send(GET[:20])
        content.send(POST % 5 + b"12")
        server.settle()
        server.drain()
        server.advance(2)
        head.send(GET[20:])
        content.send(b"345")
        assert head.receive().value("Connection") == "close"
        assert content.receive().value("Connection") == "close"
        assert head.at_end()
        assert content.at_end()


@pytest.fixture(autouse=True)
def no_internal_errors(caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest) -> Iterable[None]:
    """Fail a test in which the server has met an error of its own."""
    yield
    if "fails" not in request.node.name:
        records = [record for record in caplog.get_records("call") if record.levelno >= logging.ERROR]
        assert not records, [record.getMessage() for record in records]


def test_content_released_late_is_closed_in_its_own_time() -> None:
    # An application that answers without reading a spooled upload: its file goes when the application has ended.
    files: list[io.IOBase] = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        files.append(environ["wsgi.input"])
        start_response("200 OK", [])
        return [b"unread"]

    with MemoryServer(application, request_buffer=10) as server:
        client = SteppedClient(server)
        assert client.post(bytes(1000)).content == b"unread"
        assert files[0].closed
        with pytest.raises(NothingArrived):
            client.receive()


def test_content_of_a_connection_that_is_gone_is_not_written_to_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    monkeypatch.setattr(ContentBuffer, "write", lambda content, blocks: written.append(sum(map(len, blocks))))
    with MemoryServer(echo, request_buffer=10) as server:
        client = server.connect()
        client.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5000\r\n\r\n" + bytes(1000))
        while server.loop.has_ready:
            server.loop.run_turn()
        (connection,) = server.engine.connections
        connection.abort()  # before a thread comes to it
        server.settle()
        assert not written
        assert server.engine.content_budget.used == 0

        client = server.connect()
        client.send(b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5000\r\n\r\n" + bytes(1000))
        server.settle()
        assert written == [1000]
