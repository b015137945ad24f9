"""How a drain ends parked streams: in turns, each with a farewell of its own; on a clock that the test moves."""

from __future__ import annotations

import re
import select
import signal
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import aiowsgi
from aiowsgi.testing import MemoryClient, MemoryServer
from tests.process.server_process import PATIENCE, connect_unix, server_process

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

END = b"0\r\n\r\n"
GRACE_SECONDS = 0.1  # before the first turn: what the clients of idle connections have


class Clients:
    """Clients of one channel, and when the stream of each has ended.

    Args:
        count: how many.
        stream: what is parked for each, instead of the channel's events.
        options: of the server.
    """

    def __init__(self, count: int, stream: Any = None, *, retry: float | None = None, **options: Any) -> None:
        self.channel = aiowsgi.Channel()
        self._retry = retry
        self._stream = stream
        self.server = MemoryServer(self._application, **options)
        self.clients = [self.connect() for _ in range(count)]
        self.server.settle()
        self.received = dict.fromkeys(self.clients, b"")
        self.ended_at: dict[MemoryClient, float] = {}

    def _application(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        stream = self._stream() if self._stream else aiowsgi.sse(self.channel, environ, retry=self._retry)
        return aiowsgi.park(environ, stream)

    def connect(self, last_event_id: str = "") -> MemoryClient:
        client = self.server.connect()
        field = f"Last-Event-ID: {last_event_id}\r\n" if last_event_id else ""
        client.send(f"GET / HTTP/1.1\r\nHost: test\r\n{field}\r\n".encode())
        return client

    def read(self) -> None:
        for client in self.clients:
            if client not in self.ended_at:
                self.received[client] += client.read()
                if self.received[client].endswith(END):
                    self.ended_at[client] = self.server.loop.time()

    def drain(self, seconds: float, step: float = 0.05) -> list[float]:
        """Begin a drain; return after so many seconds of it when each stream has ended, in order."""
        begun = self.server.loop.time()
        self.server.drain(GRACE_SECONDS)
        for _ in range(round(seconds / step)):
            self.server.advance(step)
            self.read()
        return sorted(ended - begun for ended in self.ended_at.values())

    def returns(self) -> list[float]:
        """Return what each stream has said of when its client is to come back, in seconds."""
        found = [re.search(rb"retry: (\d+)\n\n\r\n0\r\n\r\n$", text) for text in self.received.values()]
        return [int(match[1]) / 1000 for match in found if match]


def busiest_second(times: list[float]) -> int:
    return max(sum(start <= time < start + 1 for time in times) for start in times)


def test_streams_end_at_the_rate_that_was_asked_for() -> None:
    clients = Clients(200, drain_rate=20)
    with clients.server:
        ended = clients.drain(12)
        assert len(ended) == 200
        assert busiest_second(ended) <= 22
        assert 9.5 < ended[-1] < 10.5
        assert clients.server.at_rest


def test_streams_are_all_ended_in_time_where_the_rate_is_too_low() -> None:
    clients = Clients(200, drain_rate=1, graceful_timeout=10)
    with clients.server:
        ended = clients.drain(8.2)
        assert len(ended) == 200
        assert busiest_second(ended) <= 30
        # There was no time to spread them by their turns alone.
        assert 20 < max(clients.returns()) - min(clients.returns()) <= 30


def test_few_streams_are_ended_at_once_though_the_time_is_long() -> None:
    clients = Clients(5, graceful_timeout=600)
    with clients.server:
        assert clients.drain(GRACE_SECONDS + 0.02, step=0.01)[-1] < GRACE_SECONDS + 0.02


def test_rate_of_nothing_ends_all_streams_in_one_turn() -> None:
    clients = Clients(50, drain_rate=0)
    with clients.server:
        ended = clients.drain(GRACE_SECONDS + 0.05, step=0.01)
        assert len(ended) == 50
        assert ended[0] == ended[-1]


def test_each_stream_of_events_ends_with_a_time_to_return_of_its_own() -> None:
    clients = Clients(100, drain_rate=100)
    with clients.server:
        clients.drain(3)
        times = clients.returns()
        assert len(times) == 100
        assert len(set(times)) > 90
        assert min(times) >= 1
        assert 1.5 < max(times) - min(times) <= 2


def test_time_to_return_begins_with_that_of_the_application() -> None:
    clients = Clients(20, retry=7)
    with clients.server:
        clients.drain(1)
        assert len(clients.returns()) == 20
        assert all(7 <= time <= 9 for time in clients.returns())


def test_times_are_the_same_in_every_run_on_the_same_random_numbers() -> None:
    def run() -> tuple[list[float], list[float]]:
        clients = Clients(30, drain_rate=10)
        with clients.server:
            ended = clients.drain(4)
            return sorted(clients.returns()), ended

    assert run() == run()


def test_stream_that_waits_for_its_turn_misses_no_event_and_ends_between_two() -> None:
    clients = Clients(40, drain_rate=20)
    with clients.server:
        sent = []
        clients.server.drain(GRACE_SECONDS)
        for number in range(100):
            sent.append(clients.channel.send(f"event {number}\nin two lines"))
            clients.server.advance(0.025)
            clients.read()
        assert len(clients.ended_at) == 40
        counts = set()
        for text in clients.received.values():
            *frames, farewell, rest = content_of(text).split(b"\n\n")
            assert frames.pop(0).startswith(b"id: ")
            assert farewell.startswith(b"retry: ")
            assert rest == b""
            assert frames == [
                b"id: %b\ndata: event %d\ndata: in two lines" % (sent[number].encode(), number)
                for number in range(len(frames))
            ]
            counts.add(len(frames))
        assert len(counts) > 10
        assert max(counts) > 50


def content_of(response: bytes) -> bytes:
    """Join the chunks of a response that is whole."""
    content, rest = b"", response.partition(b"\r\n\r\n")[2]
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        content, rest = content + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return content


def test_client_that_has_gone_leaves_its_turn_to_the_next() -> None:
    clients = Clients(20, drain_rate=1)
    with clients.server:
        clients.drain(1)
        assert len(clients.ended_at) == 1
        for client in [client for client in clients.clients if client not in clients.ended_at][:15]:
            client.reset()
            clients.ended_at[client] = 0.0
        clients.server.advance(4.5)
        clients.read()
        assert len(clients.ended_at) == 20
        assert clients.server.at_rest


def test_stream_that_is_parked_in_the_drain_has_a_turn_behind_the_others() -> None:
    clients = Clients(10, drain_rate=10)
    with clients.server:
        late = clients.server.connect()
        late.send(b"GET / HTTP/1.1\r\n")
        clients.server.settle()
        clients.clients.append(late)
        clients.received[late] = b""
        clients.server.drain(GRACE_SECONDS)
        clients.server.advance(GRACE_SECONDS + 0.25)
        late.send(b"Host: test\r\n\r\n")
        clients.server.advance(0.5)
        clients.read()
        assert late not in clients.ended_at
        clients.server.advance(0.5)
        clients.read()
        assert len(clients.ended_at) == 11
        assert len(clients.returns()) == 11


def test_stream_whose_client_is_behind_gets_its_farewell_after_the_rest() -> None:
    clients = Clients(1, kernel_size=100)
    with clients.server:
        for _ in range(5):
            clients.channel.send("x" * 100_000)
        clients.server.settle()
        clients.server.drain()
        clients.server.advance(1)
        for _ in range(20_000):
            clients.read()
            clients.server.settle()
        assert len(clients.returns()) == 1


# Iterables of others.


class Ticks(AsyncIterator[bytes]):
    """One block, and no end."""

    def __init__(self) -> None:
        self._begun = False

    async def __anext__(self) -> bytes:
        if not self._begun:
            self._begun = True
            return b"tick"
        async for _ in aiowsgi.Channel().subscribe():  # to which nobody sends
            pass
        raise StopAsyncIteration


def test_stream_without_a_farewell_is_spread_and_nothing_is_added() -> None:
    clients = Clients(20, Ticks, drain_rate=10)
    with clients.server:
        ended = clients.drain(3)
        assert {content_of(text) for text in clients.received.values()} == {b"tick"}
        assert busiest_second(ended) <= 12


def test_farewell_of_the_application_s_own_is_asked_for_once_and_sent_last() -> None:
    asked = []

    class Polite(Ticks):
        def farewell(self, absence: float) -> bytes:
            asked.append(absence)
            return b"bye"

    clients = Clients(3, Polite)
    with clients.server:
        clients.drain(1)
        assert {content_of(text) for text in clients.received.values()} == {b"tickbye"}
        assert len(asked) == 3
        assert all(0 <= absence <= 2 for absence in asked)


@pytest.mark.parametrize(
    ("farewell", "message"),
    [
        (lambda absence: b"", ""),
        (lambda absence: "bye", "farewell() returned str, not bytes"),
        (lambda absence: 1 // 0, "ZeroDivisionError"),
    ],
)
def test_farewell_that_is_of_no_use_is_logged_and_the_response_whole(
    farewell: Any, message: str, error_log: pytest.LogCaptureFixture
) -> None:
    class Rude(Ticks):
        pass

    Rude.farewell = staticmethod(farewell)  # type: ignore[attr-defined]  # as an application might
    clients = Clients(1, Rude)
    with clients.server:
        clients.drain(1)
        assert [content_of(text) for text in clients.received.values()] == [b"tick"]
    assert bool(error_log.records) == bool(message)
    assert message in error_log.text


class Unfindable:
    """A method that raises when it is looked up."""

    def __get__(self, stream: object, kind: type) -> Any:
        raise RuntimeError("no farewell, on purpose")


def exit_instead(absence: float) -> bytes:
    raise SystemExit(3)


@pytest.mark.parametrize(
    ("farewell", "message"),
    [(staticmethod(exit_instead), "SystemExit(3)"), (Unfindable(), "no farewell, on purpose")],
    ids=["exit", "lookup"],
)
def test_farewell_that_raises_anything_leaves_the_streams_behind_it_their_turns(
    farewell: Any, message: str, error_log: pytest.LogCaptureFixture
) -> None:
    class Rude(Ticks):
        pass

    Rude.farewell = farewell  # type: ignore[attr-defined]  # as an application might
    clients = Clients(5, Rude)
    with clients.server:
        clients.drain(1)
        assert [content_of(text) for text in clients.received.values()] == 5 * [b"tick"]
    assert [message in record.getMessage() for record in error_log.records] == 5 * [True]


# The command.

APPLICATION = """
import aiowsgi

channel = aiowsgi.Channel()


def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    if environ["PATH_INFO"] == "/subscribers":
        return [str(channel.stats().subscribers).encode()]
    return aiowsgi.park(environ, aiowsgi.sse(channel, environ))
"""


def test_second_signal_ends_streams_that_wait_for_their_turn_at_once(tmp_path: Path) -> None:
    (tmp_path / "crowd.py").write_text(APPLICATION)
    path = tmp_path / "socket"
    arguments = ["crowd", "--uds", str(path), "--drain-rate", "1", "--graceful-timeout", "600"]
    with server_process(tmp_path, *arguments) as server:
        clients = [connect_unix(path) for _ in range(100)]
        for client in clients:
            client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            client.receive_head()
            assert client.read_chunk().startswith(b"id: ")
        server.signal(signal.SIGTERM)
        first, *_ = select.select([client.socket for client in clients], [], [], PATIENCE)[0]
        assert b"retry: " in first.recv(1000)
        server.signal(signal.SIGINT)
        assert server.wait() == 128 + signal.SIGINT
        for client in clients:
            client.close()


def test_reload_moves_a_crowd_to_the_new_worker_in_turns(tmp_path: Path) -> None:
    (tmp_path / "crowd.py").write_text(APPLICATION)
    path = tmp_path / "socket"
    arguments = ["crowd", "--uds", str(path), "--workers", "1", "--drain-rate", "10", "--threads", "1"]
    with server_process(tmp_path, *arguments) as server:
        clients = [connect_unix(path) for _ in range(20)]
        for client in clients:
            client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")
            client.receive_head()
            assert client.read_chunk().startswith(b"id: ")
        server.signal(signal.SIGHUP)
        ended, _, _ = select.select([client.socket for client in clients], [], [], PATIENCE)
        assert 1 <= len(ended) < 20
        # Whoever comes now is the new worker's, which has nobody else yet.
        with connect_unix(path) as client:
            assert client.get("/subscribers").content == b"0"
        farewells = {client.read_chunk() for client in clients}
        assert len(farewells) > 15
        for client in clients:
            assert client.read_chunk() == b""
            assert client.at_end()
            client.close()
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
        assert "abandoned after" not in server.log  # of the worker that has left
        assert "0 finished, 0 abandoned" in server.log
