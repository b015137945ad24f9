"""The transport in memory does what the loops' own do: each check runs over it and over sockets, on both loops.

Also what only the one in memory can show: what a reset destroys.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from aiowsgi.testing import MemoryClient, MemoryTransport, VirtualLoop
from tests.conftest import LOOPS


class Recorder(asyncio.Protocol):
    """A protocol that notes what it is told."""

    def __init__(self, keeps_open: bool = True) -> None:
        self.told: list[Any] = []
        self.data = b""
        self._keeps_open = keeps_open
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> bool:
        self.told.append("eof")
        return self._keeps_open

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    def connection_lost(self, error: Exception | None) -> None:
        self.told.append(None if error is None else type(error))


class MemoryEnds:
    """Both ends of a connection in memory."""

    def __init__(self, recorder: Recorder) -> None:
        self.loop = VirtualLoop()
        self.client = MemoryClient(64 * 1024)
        MemoryTransport(self.loop, recorder, self.client)
        self.settle()

    def settle(self) -> None:
        self.loop.run_ready()

    def send(self, data: bytes) -> None:
        self.client.send(data)

    def receive(self) -> bytes:
        return self.client.read(10_000)

    def at_end(self) -> bool:
        return self.client.at_end

    def end(self) -> None:
        self.client.end()

    def close(self) -> None:
        if not self.client.was_reset:
            self.client.close()


class SocketEnds:
    """Both ends of a pair of sockets."""

    def __init__(self, recorder: Recorder, make_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
        self.loop = make_loop()
        self.client, server = socket.socketpair()
        self.client.setblocking(False)
        server.setblocking(False)
        self.loop.run_until_complete(self.loop.connect_accepted_socket(lambda: recorder, server))
        self.settle()

    def settle(self) -> None:
        async def turns() -> None:
            for _ in range(30):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turns())

    def send(self, data: bytes) -> None:
        assert self.client.send(data) == len(data)

    def receive(self) -> bytes:
        try:
            return self.client.recv(10_000)
        except BlockingIOError:
            return b""

    def at_end(self) -> bool:
        try:
            return self.client.recv(1) == b""
        except BlockingIOError:
            return False

    def end(self) -> None:
        self.client.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.client.close()
        self.settle()
        self.loop.close()


Open = Callable[..., tuple[Any, Recorder]]


@pytest.fixture(params=["memory", *LOOPS])
def connect(request: pytest.FixtureRequest) -> Iterator[Open]:
    opened: list[tuple[Any, Recorder]] = []

    def connect(**options: Any) -> tuple[Any, Recorder]:
        recorder = Recorder(**options)
        ends: Any = MemoryEnds(recorder) if request.param == "memory" else SocketEnds(recorder, LOOPS[request.param])
        opened.append((ends, recorder))
        return ends, recorder

    yield connect
    for ends, recorder in opened:
        if not recorder.transport.is_closing():
            recorder.transport.abort()
        ends.settle()
        ends.close()


def fill(ends: Any, recorder: Recorder) -> int:
    """Write until the transport asks for a pause; return how much that was."""
    size = 0
    while "pause" not in recorder.told:
        recorder.transport.write(bytes(10_000))
        size += 10_000
        ends.settle()
    return size


def drain(ends: Any) -> int:
    """Read all that comes; return how much that was."""
    size = 0
    while data := ends.receive():
        size += len(data)
        ends.settle()
    return size


def test_transport_paused_for_reading_holds_data_and_end_back(connect: Open) -> None:
    ends, recorder = connect()
    recorder.transport.pause_reading()
    ends.send(b"data")
    ends.end()
    ends.settle()
    assert (recorder.data, recorder.told) == (b"", [])
    assert not recorder.transport.is_reading()
    recorder.transport.resume_reading()
    ends.settle()
    assert (recorder.data, recorder.told) == (b"data", ["eof"])


def test_transport_whose_client_has_ended_still_writes(connect: Open) -> None:
    ends, recorder = connect()
    ends.end()
    ends.settle()
    recorder.transport.write(b"answer")
    ends.settle()
    assert ends.receive() == b"answer"
    assert recorder.told == ["eof"]
    recorder.transport.close()
    ends.settle()
    assert recorder.told == ["eof", None]
    assert ends.at_end()


def test_transport_whose_protocol_does_not_keep_it_open_closes_at_the_end(connect: Open) -> None:
    ends, recorder = connect(keeps_open=False)
    ends.end()
    ends.settle()
    assert recorder.told == ["eof", None]
    assert recorder.transport.is_closing()


def test_transport_asks_for_a_pause_within_write_and_for_more_once_it_is_taken(connect: Open) -> None:
    ends, recorder = connect()
    recorder.transport.set_write_buffer_limits(high=50_000)
    size = fill(ends, recorder)
    assert recorder.transport.get_write_buffer_size() > 50_000
    assert drain(ends) == size
    assert recorder.told == ["pause", "resume"]
    assert recorder.transport.get_write_buffer_size() == 0


def test_transport_whose_limit_falls_to_nothing_asks_at_once_and_tells_when_it_is_flushed(connect: Open) -> None:
    ends, recorder = connect()
    while not recorder.transport.get_write_buffer_size():
        recorder.transport.write(bytes(10_000))
    assert recorder.told == []
    recorder.transport.set_write_buffer_limits(high=0)
    assert recorder.told == ["pause"]
    drain(ends)
    assert recorder.told == ["pause", "resume"]


def test_transport_ends_its_side_after_what_was_written(connect: Open) -> None:
    ends, recorder = connect()
    size = fill(ends, recorder)
    recorder.transport.write_eof()
    assert drain(ends) == size
    assert ends.at_end()
    ends.send(b"still read")
    ends.settle()
    assert recorder.data == b"still read"
    assert None not in recorder.told
    with pytest.raises(RuntimeError):
        recorder.transport.write(b"more")


def test_transport_closed_delivers_what_was_written(connect: Open) -> None:
    ends, recorder = connect()
    size = fill(ends, recorder)
    recorder.transport.close()
    ends.settle()
    assert recorder.told == ["pause"]
    assert recorder.transport.is_closing()
    assert drain(ends) == size
    assert recorder.told[-1] is None
    assert ends.at_end()


def test_transport_aborted_tells_so_in_a_later_turn(connect: Open) -> None:
    ends, recorder = connect()
    fill(ends, recorder)
    recorder.transport.abort()
    assert recorder.told == ["pause"]
    assert recorder.transport.is_closing()
    recorder.transport.write(b"ignored")
    ends.settle()
    assert recorder.told[-1] is None
    assert recorder.told.count(None) == 1


# In memory alone.


def test_client_that_resets_destroys_what_it_has_not_read_and_is_noticed() -> None:
    recorder = Recorder()
    ends = MemoryEnds(recorder)
    recorder.transport.write(b"answer")
    ends.send(b"data")
    ends.client.reset()
    ends.settle()
    assert recorder.data == b"data"
    assert recorder.told == [ConnectionResetError]
    assert ends.receive() == b""
    assert ends.client.was_reset
    with pytest.raises(BrokenPipeError):
        ends.send(b"more")


def test_client_that_resets_a_paused_transport_is_noticed_at_a_write_or_by_poll() -> None:
    recorder = Recorder()
    ends = MemoryEnds(recorder)
    recorder.transport.pause_reading()
    ends.client.reset()
    ends.settle()
    assert recorder.told == []
    recorder.transport.write(b"answer")
    ends.settle()
    assert recorder.told == [ConnectionResetError]


def test_client_that_has_closed_answers_data_with_a_reset() -> None:
    recorder = Recorder()
    ends = MemoryEnds(recorder)
    ends.client.close()
    ends.settle()
    assert recorder.told == ["eof"]
    recorder.transport.write(b"one")  # the kernel takes it: nothing has come back yet
    recorder.transport.write(b"two")
    ends.settle()
    assert recorder.told == ["eof", ConnectionResetError]


def test_client_that_closes_with_something_unread_resets() -> None:
    recorder = Recorder()
    ends = MemoryEnds(recorder)
    recorder.transport.write(b"unread")
    ends.client.close()
    ends.settle()
    assert recorder.told == [ConnectionResetError]


def test_server_that_closes_with_something_unread_resets() -> None:
    recorder = Recorder()
    ends = MemoryEnds(recorder)
    recorder.transport.write(b"answer")
    recorder.transport.pause_reading()
    ends.send(b"unread")
    recorder.transport.close()
    ends.settle()
    assert ends.client.was_reset
    assert ends.receive() == b""


def test_server_that_has_closed_answers_data_with_a_reset() -> None:
    recorder = Recorder()
    ends = MemoryEnds(recorder)
    recorder.transport.write(b"answer")
    recorder.transport.close()
    ends.settle()
    assert not ends.client.was_reset
    ends.send(b"more")
    assert ends.client.was_reset
    assert ends.receive() == b""


# The loop.


def test_memory_transport_refuses_an_empty_piece_among_several() -> None:
    recorder = Recorder()
    ends = MemoryEnds(recorder)
    recorder.transport.writelines([b"one ", b"two"])
    with pytest.raises(ValueError, match="empty piece"):
        recorder.transport.writelines([b"three", b""])
    ends.settle()
    assert ends.receive() == b"one two"


@pytest.mark.parametrize("end", ["abort", "close"])
def test_memory_transport_refuses_to_be_ended_by_resume_writing(end: str) -> None:
    class Ending(Recorder):
        def resume_writing(self) -> None:
            getattr(self.transport, end)()

    recorder = Ending()
    ends = MemoryEnds(recorder)
    recorder.transport.set_write_buffer_limits(high=0)
    recorder.transport.write(bytes(100_000))
    assert recorder.told == ["pause"]
    assert ends.client.read(100_000)
    with pytest.raises(RuntimeError, match="twice"):
        ends.settle()


def test_loop_runs_timers_in_order_each_at_its_time() -> None:
    loop = VirtualLoop(0.0)
    ran: list[tuple[str, float]] = []
    loop.call_later(2.0, lambda: ran.append(("second", loop.time())))
    loop.call_at(1.0, lambda: loop.call_soon(lambda: ran.append(("first", loop.time()))))
    loop.call_later(1.5, ran.append, ("never", 0.0)).cancel()
    last = loop.call_later(3.0, ran.append, ("last", 3.0))
    assert loop.timer_count == 3
    loop.advance(2.5)
    assert ran == [("first", 1.0), ("second", 2.0)]
    assert loop.time() == 2.5
    assert loop.next_timer == last.when() == 3.0


def test_loop_turn_leaves_what_its_callbacks_add_to_the_next() -> None:
    loop = VirtualLoop()
    ran: list[int] = []
    loop.call_soon(lambda: [ran.append(1), loop.call_soon(ran.append, 3)])
    loop.call_soon(ran.append, 2)
    loop.run_turn()
    assert ran == [1, 2]
    assert loop.has_ready
    loop.run_turn()
    assert ran == [1, 2, 3]


def test_loop_raises_what_a_callback_raises() -> None:
    loop = VirtualLoop()
    loop.call_soon(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        loop.run_ready()


def test_loop_used_by_another_thread_says_so() -> None:
    loop = VirtualLoop()

    async def use() -> None:
        with pytest.raises(RuntimeError, match="not its own"):
            await asyncio.to_thread(loop.call_soon, print)
        await asyncio.to_thread(loop.call_soon_threadsafe, bool)

    asyncio.run(use())
    assert loop.has_ready


def test_loop_runs_coroutines_in_its_own_time() -> None:
    loop = VirtualLoop(0.0)

    async def sleeper() -> float:
        await asyncio.sleep(5)
        return asyncio.get_running_loop().time()

    task = loop.create_task(sleeper())
    loop.advance(4.9)
    assert not task.done()
    loop.advance(0.1)
    assert task.result() == 5.0
