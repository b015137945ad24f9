"""One wake-up of the loop for everything that is ready."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import aiowsgi.bridge.wakeup as wakeup_module
from aiowsgi.bridge.wakeup import Wakeup
from aiowsgi.testing import VirtualLoop
from tests.recursion import MARGINS, near_the_limit


class CountingLoop(VirtualLoop):
    """Counts the wake-ups that cost a system call."""

    def __init__(self) -> None:
        super().__init__()
        self.wakeup_count = 0
        self.closed = False

    def call_soon_threadsafe(self, *args: Any, **options: Any) -> Any:
        if self.closed:
            raise RuntimeError("Event loop is closed")
        self.wakeup_count += 1
        return super().call_soon_threadsafe(*args, **options)

    def is_closed(self) -> bool:
        return self.closed


class Note:
    def __init__(self, woken: list[Any], value: Any, then: Any = bool) -> None:
        self._woken = woken
        self._value = value
        self._then = then

    def wake(self) -> None:
        self._woken.append(self._value)
        self._then()


@pytest.fixture
def loop() -> CountingLoop:
    return CountingLoop()


@pytest.fixture
def woken() -> list[Any]:
    return []


def test_wakeup_is_one_for_all_that_is_ready(loop: CountingLoop, woken: list[Any]) -> None:
    wakeup = Wakeup(loop)
    for value in range(100):
        wakeup.notify(Note(woken, value))
    assert loop.wakeup_count == 1
    assert woken == []
    loop.run_ready()
    assert woken == list(range(100))
    wakeup.notify(Note(woken, 100))
    assert loop.wakeup_count == 2
    loop.run_ready()
    assert woken[-1] == 100


def test_wakeup_notified_while_draining_takes_another_turn_of_the_loop(loop: CountingLoop, woken: list[Any]) -> None:
    wakeup = Wakeup(loop)

    def again() -> None:
        wakeup.notify(Note(woken, "again", again))

    wakeup.notify(Note(woken, "first", again))
    loop.call_soon(woken.append, "other")
    for _ in range(3):
        loop.run_turn()
    assert woken == ["first", "other", "again", "again"]


def test_wakeup_of_something_that_fails_is_logged_and_the_others_are_woken(
    loop: CountingLoop, woken: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise RuntimeError("fault of a test")

    wakeup = Wakeup(loop)
    for value, then in ((1, bool), (2, fail), (3, bool)):
        wakeup.notify(Note(woken, value, then))
    loop.run_ready()
    assert woken == [1, 2, 3]
    assert "fault of a test" in caplog.text


def test_wakeup_of_something_that_fails_as_does_the_log_wakes_the_others(
    loop: CountingLoop, woken: list[Any], failing_log: list[str]
) -> None:
    def fail() -> None:
        raise RuntimeError("fault of a test")

    wakeup = Wakeup(loop)
    for value, then in ((1, bool), (2, fail), (3, bool)):
        wakeup.notify(Note(woken, value, then))
    loop.run_ready()
    assert woken == [1, 2, 3]
    assert len(failing_log) == 1


def test_wakeup_of_a_closed_loop_is_forgotten(loop: CountingLoop, woken: list[Any]) -> None:
    wakeup = Wakeup(loop)
    loop.closed = True
    wakeup.notify(Note(woken, 1))
    wakeup.notify(Note(woken, 2))
    assert woken == []


async def test_wakeup_close_to_the_recursion_limit_is_sent_or_raises_and_later_ones_are_sent() -> None:
    errors = 0
    for margin in MARGINS:
        woken: list[Any] = []
        wakeup = Wakeup(asyncio.get_running_loop())

        def notify(wakeup: Wakeup = wakeup, woken: list[Any] = woken) -> None:
            wakeup.notify(Note(woken, "deep"))

        try:
            near_the_limit(margin, notify)
        except RecursionError:
            errors += 1
        else:
            await asyncio.sleep(0)
            assert woken == ["deep"]
        wakeup.notify(Note(woken, "later"))
        await asyncio.sleep(0)
        assert woken[-1] == "later"
    assert 0 < errors < len(MARGINS)


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt(), RuntimeError("of a subclass of a loop")])
def test_wakeup_that_fails_is_the_callers_and_made_up_for_by_the_next(
    loop: CountingLoop, woken: list[Any], error: BaseException
) -> None:
    errors = [error]

    def clock() -> float:
        if errors:
            raise errors.pop()
        return loop.time()

    wakeup = Wakeup(loop, clock)
    with pytest.raises(type(error)):
        wakeup.notify(Note(woken, 1))
    assert wakeup.awaited_since == 0.0
    wakeup.notify(Note(woken, 2))
    loop.run_ready()
    assert woken == [1, 2]


def test_wakeup_from_many_threads_loses_nothing(loop: CountingLoop, woken: list[Any]) -> None:
    wakeup = Wakeup(loop)
    count = 2000
    done = threading.Event()

    def notify(thread: int) -> None:
        for number in range(count):
            wakeup.notify(Note(woken, (thread, number)))

    threads = [threading.Thread(target=notify, args=(number,)) for number in range(4)]
    watcher = threading.Thread(target=lambda: [[thread.join() for thread in threads], done.set()])
    for thread in (*threads, watcher):
        thread.start()
    while not done.is_set():
        loop.run_turn()
    watcher.join()
    loop.run_ready()
    assert len(woken) == 4 * count
    for thread_number in range(4):  # each thread's in its order
        assert [number for thread, number in woken if thread == thread_number] == list(range(count))
    assert loop.wakeup_count < 4 * count


# Threads give way to a loop that is late.


class Clock:
    """A clock that stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def give_way(wakeup: Wakeup) -> threading.Thread:
    """Give way in a thread of its own; when this returns, it waits or has ended."""
    thread = threading.Thread(target=wakeup.give_way)
    thread.start()
    return thread


def test_thread_does_not_wait_for_a_loop_that_is_not_late(loop: CountingLoop, woken: list[Any]) -> None:
    clock = Clock()
    wakeup = Wakeup(loop, clock)
    wakeup.give_way()
    assert not wakeup.awaited_since  # which is all that a thread looks at
    wakeup.notify(Note(woken, 1))
    assert wakeup.awaited_since == clock.now
    clock.now += 0.004
    with unlimited_waiting():
        wakeup.give_way()
    loop.run_ready()
    assert not wakeup.awaited_since


def test_thread_waits_for_the_end_of_the_turn_of_a_loop_that_is_late(loop: CountingLoop, woken: list[Any]) -> None:
    clock = Clock()
    wakeup = Wakeup(loop, clock)
    wakeup.notify(Note(woken, 1))
    clock.now += 0.006
    with unlimited_waiting():
        threads = [give_way(wakeup) for _ in range(3)]
        loop.run_turn()
        assert woken == [1]
        assert all(thread.is_alive() for thread in threads)  # the rest of the turn comes first
        loop.run_turn()
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()
    assert not wakeup.awaited_since


def test_loop_that_is_wanted_again_before_the_end_of_its_turn_is_awaited_since_that_end(
    loop: CountingLoop, woken: list[Any]
) -> None:
    clock = Clock()
    wakeup = Wakeup(loop, clock)
    wakeup.notify(Note(woken, 1))
    clock.now += 0.006
    loop.run_turn()
    wakeup.notify(Note(woken, 2))
    assert wakeup.awaited_since == clock.now - 0.006
    clock.now += 0.001
    wakeup._end_turn()
    assert wakeup.awaited_since == clock.now
    loop.run_ready()
    assert not wakeup.awaited_since


def test_thread_gives_way_for_a_bounded_time_to_a_loop_that_stands_still(loop: CountingLoop, woken: list[Any]) -> None:
    clock = Clock()
    wakeup = Wakeup(loop, clock)
    wakeup.notify(Note(woken, 1))
    clock.now += 3600.0
    thread = give_way(wakeup)
    thread.join(10)
    assert not thread.is_alive()


def test_thread_does_not_give_way_to_a_loop_that_is_closed(loop: CountingLoop, woken: list[Any]) -> None:
    clock = Clock()
    wakeup = Wakeup(loop, clock)
    loop.closed = True
    wakeup.notify(Note(woken, 1))
    clock.now += 3600.0
    with unlimited_waiting():
        wakeup.give_way()


@contextmanager
def unlimited_waiting() -> Iterator[None]:
    """Have a thread that waits wait for longer than the test does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wakeup_module, "_GIVE_WAY_SECONDS", 60.0)
        yield


@pytest.mark.parametrize(("worked", "told"), [(0.0, [0.02]), (0.015, [0.005]), (0.02, [])])
def test_loop_is_held_up_for_the_time_that_it_was_not_itself_at_work(
    monkeypatch: pytest.MonkeyPatch, worked: float, told: list[float]
) -> None:
    used = 0.0
    monkeypatch.setattr(time, "thread_time", lambda: used)
    loop = VirtualLoop()
    held_up: list[float] = []
    now = loop.time()
    wakeup = Wakeup(loop, lambda: now, held_up.append)
    wakeup.notify(Note([], 1))
    now += 0.02
    used += worked
    loop.run_ready()
    assert held_up == pytest.approx(told)
