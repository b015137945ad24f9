"""One wake-up of the loop for everything that is ready."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from aiowsgi.bridge.wakeup import Wakeup
from aiowsgi.testing import VirtualLoop


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


def test_wakeup_of_a_closed_loop_is_forgotten(loop: CountingLoop, woken: list[Any]) -> None:
    wakeup = Wakeup(loop)
    loop.closed = True
    wakeup.notify(Note(woken, 1))
    wakeup.notify(Note(woken, 2))
    assert woken == []


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
