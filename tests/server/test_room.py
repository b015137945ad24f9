"""Who makes room at the limit of connections, and what it costs to look for them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pytest

from aiowsgi.server.room import Room
from aiowsgi.testing import MemoryClient, MemoryServer
from tests.hosting import hello, request
from tests.simulation.memory import SteppedClient

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

# More than a connection has for its next request, with a limit of a few.
FAIR_SECONDS = 0.21
FAIR_SECONDS_OF_48 = 0.25


def connect(server: MemoryServer, sent: bytes) -> MemoryClient:
    client = server.connect()
    client.send(sent)
    server.settle()
    return client


class Clock:
    """Passes with each look at it, as if connections had been looked at meanwhile."""

    def __init__(self, look_seconds: float) -> None:
        self.now = 1000.0
        self._look_seconds = look_seconds

    def __call__(self) -> float:
        self.now += self._look_seconds
        return self.now


def test_room_is_left_below_the_limit_only() -> None:
    with MemoryServer(hello) as server:
        room = Room(server.engine, 2, server.engine.clock)
        assert room.is_left()
        connect(server, request())
        assert room.is_left()
        connect(server, request())
        assert not room.is_left()


def finds_idle_after_a_look_in_vain(look_seconds: float, seconds: float) -> bool:
    """Look in vain, have a busy connection turn idle, look once more so much later, and return what came of it."""
    clock = Clock(look_seconds)
    with MemoryServer(hello) as server:
        room = Room(server.engine, 1, clock)
        client = connect(server, b"GET / HTTP/1.1\r\nHost:")
        assert not room.make()
        client.send(b" test\r\n\r\n")
        server.engine.keeps_connections = True  # as where its answer was on its way already
        server.settle()
        assert [connection.idle for connection in server.engine.connections] == [True]
        server.advance(FAIR_SECONDS)
        clock.now += seconds
        return room.make()


def test_look_in_vain_at_all_connections_is_followed_by_a_rest_of_twenty_times_as_long() -> None:
    assert not finds_idle_after_a_look_in_vain(0.002, 0.03)
    assert finds_idle_after_a_look_in_vain(0.002, 0.05)


def test_rest_after_a_look_that_took_long_is_bounded() -> None:
    """A long look only means that the machine was busy with other things."""
    assert not finds_idle_after_a_look_in_vain(0.1, 0.2)
    assert finds_idle_after_a_look_in_vain(0.1, 0.4)


def test_look_that_finds_enough_is_followed_by_none() -> None:
    with MemoryServer(hello) as server:
        room = Room(server.engine, 3, Clock(1.0))
        for _ in range(3):
            connect(server, request())
        server.advance(FAIR_SECONDS)
        for left_count in (2, 1, 0):
            assert room.make()
            server.settle()
            assert len(server.engine.connections) == left_count
        assert not room.make()


# Temporary files of contents, in a process of 64 descriptors: 48 for connections and files, no file beyond 32.

UPLOAD = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 9\r\n\r\n"


def test_files_of_contents_take_room_until_they_are_closed() -> None:
    with MemoryServer(hello, request_buffer=0) as server:
        room = Room(server.engine, 0, server.engine.clock, 64)
        uploads = [connect(server, UPLOAD + b"part") for _ in range(16)]
        assert len(server.engine.content_files) == 16
        for _ in range(15):
            connect(server, request())
        assert room.is_left()
        connect(server, request())
        assert not room.is_left()
        left = []
        server.engine.on_change(lambda: left.append(room.is_left()))
        uploads[0].send(b"whole")  # its connection stays
        server.settle()
        assert left == [True]
        assert len(server.engine.connections) == 32


def test_connections_alone_count_where_their_limit_is_above_the_descriptors() -> None:
    with MemoryServer(hello, request_buffer=0) as server:
        room = Room(server.engine, 100, server.engine.clock, 64)
        for _ in range(99):
            connect(server, request())
        assert room.is_left()
        connect(server, request())
        assert not room.is_left()


def test_content_for_whose_file_no_descriptor_is_left_is_503(caplog: pytest.LogCaptureFixture) -> None:
    with MemoryServer(hello, request_buffer=4) as server:
        Room(server.engine, 0, server.engine.clock, 64)
        uploads = [connect(server, UPLOAD + b"parts") for _ in range(16)]
        late = SteppedClient(server)
        late.send(UPLOAD + b"parts")
        answer = late.receive()
        assert (answer.status_code, answer.value("Retry-After")) == (503, "1")
        assert late.at_end()
        assert "cannot store request content" in caplog.text
        late.close()
        server.settle()
        for upload in uploads:
            upload.reset()
        server.settle()
        assert not server.engine.content_files
        assert not server.engine.content_budget.used


def test_as_many_idle_connections_are_closed_as_files_have_taken_places() -> None:
    with MemoryServer(hello, request_buffer=0) as server:
        room = Room(server.engine, 0, Clock(0.0), 64)
        for _ in range(16):
            connect(server, UPLOAD + b"part")
        for _ in range(18):
            connect(server, request())
        server.advance(FAIR_SECONDS_OF_48)
        assert not room.is_left()
        assert room.make()
        server.settle()
        assert room.is_left()
        assert len(server.engine.connections) == 31


def test_idle_connections_that_are_too_few_to_make_room_are_said_to_make_none() -> None:
    with MemoryServer(hello, request_buffer=0) as server:
        room = Room(server.engine, 0, Clock(0.0), 64)
        for _ in range(16):
            connect(server, UPLOAD + b"part")
        for _ in range(17):
            connect(server, b"GET / HTTP/1.1\r\nHost:")
        connect(server, request())
        server.advance(FAIR_SECONDS_OF_48)
        assert not room.is_left()
        assert not room.make()
        server.settle()
        assert len(server.engine.connections) == 33


@pytest.mark.parametrize("keep_alive", [5, 75])  # header_timeout is 10
def test_connection_without_a_request_is_closed_for_others_only_after_a_fair_time(keep_alive: float) -> None:
    with MemoryServer(hello, keep_alive=keep_alive) as server:
        room = Room(server.engine, 1, server.engine.clock)
        client = connect(server, b"")
        server.advance(0.19)
        assert not room.make()
        client.send(b"\r\n")  # no request: RFC 9112 section 2.2
        server.advance(FAIR_SECONDS - 0.19)
        assert room.make()
        server.settle()
        assert not server.engine.connections


@pytest.mark.parametrize("keep_alive", [5, 75])
def test_connection_that_was_to_stay_open_is_closed_for_others_only_after_a_fair_time(keep_alive: float) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        content = hello(environ, start_response)
        # Somebody comes for whom there is no room, when this answer has said already that its connection stays.
        server.loop.call_soon_threadsafe(room.make)
        return content

    with MemoryServer(application, keep_alive=keep_alive) as server:
        room = Room(server.engine, 1, server.engine.clock)
        for _ in range(2):
            server.engine.keeps_connections = True
            client = connect(server, request())
            server.advance(0.19)
            assert b"Connection: close" not in client.read()
            assert not room.make()
            server.advance(FAIR_SECONDS - 0.19)
            assert room.make()
            server.settle()
            assert not server.engine.connections


def test_fair_time_is_longer_with_more_connections_and_bounded() -> None:
    with MemoryServer(hello) as server:
        for limit, seconds in ((500, 0.7), (50_000, 1.0)):
            room = Room(server.engine, limit, server.engine.clock)
            connect(server, b"")
            server.advance(seconds - 0.01)
            assert not room.make()
            server.advance(0.5)  # the rest after the look in vain included
            assert room.make()
            server.settle()
