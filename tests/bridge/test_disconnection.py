"""The flag that tells whether a client is gone."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial

import pytest

import aiowsgi.bridge.disconnection
from aiowsgi.bridge.disconnection import Disconnection


def test_disconnection_is_not_set_until_it_is() -> None:
    disconnection = Disconnection()
    assert disconnection.is_set() is False
    disconnection.set()
    assert disconnection.is_set() is True


def test_disconnection_wait_returns_after_its_timeout() -> None:
    disconnection = Disconnection()
    assert disconnection.wait(0) is False
    assert disconnection.wait(0.001) is False


def test_disconnection_wait_returns_at_once_if_it_is_set() -> None:
    disconnection = Disconnection()
    disconnection.set()
    assert disconnection.wait() is True
    assert disconnection.wait(60) is True


def test_disconnection_wait_ends_when_it_is_set() -> None:
    disconnection = Disconnection()
    results: list[bool] = []
    threads = [threading.Thread(target=lambda: results.append(disconnection.wait(60))) for _ in range(3)]
    for thread in threads:
        thread.start()
    disconnection.set()
    for thread in threads:
        thread.join(60)
    assert results == [True] * 3


def test_disconnection_calls_each_callback_once() -> None:
    disconnection = Disconnection()
    called: list[int] = []
    disconnection.add_callback(lambda: called.append(1))
    disconnection.add_callback(lambda: called.append(2))
    assert called == []
    disconnection.set()
    disconnection.set()
    assert called == [1, 2]


def test_disconnection_calls_a_late_callback_at_once() -> None:
    disconnection = Disconnection()
    called: list[int] = []
    disconnection.set()
    disconnection.add_callback(lambda: called.append(1))
    assert called == [1]


def test_disconnection_does_not_call_a_callback_that_was_taken_back() -> None:
    disconnection = Disconnection()
    called: list[int] = []

    def callback() -> None:
        called.append(1)

    disconnection.add_callback(callback)
    disconnection.remove_callback(callback)
    disconnection.remove_callback(callback)  # again, which does nothing
    disconnection.set()
    assert called == []


class Equal:
    """A callback that equals any other; a comparison first does something, as a collection or a signal may."""

    def __init__(self, first: Callable[[], object]) -> None:
        self._first = first

    def __call__(self) -> None:
        pytest.fail("it was taken back")

    def __eq__(self, other: object) -> bool:
        self._first()
        return True


def test_disconnection_that_is_set_while_a_callback_is_taken_back_calls_the_others() -> None:
    disconnection = Disconnection()
    called: list[int] = []
    disconnection.add_callback(lambda: called.append(1))
    disconnection.remove_callback(Equal(disconnection.set))
    assert called == [1]
    assert disconnection.is_set() is True


def test_disconnection_whose_callbacks_change_while_one_is_taken_back_has_the_others() -> None:
    disconnection = Disconnection()
    called: list[int] = []
    callbacks = [partial(called.append, number) for number in range(4)]
    changes = [partial(disconnection.remove_callback, callbacks[0]), partial(disconnection.add_callback, callbacks[3])]
    for callback in callbacks[:3]:
        disconnection.add_callback(callback)
    disconnection.remove_callback(Equal(lambda: changes.pop()() if changes else None))
    disconnection.set()
    assert called == [2, 3]  # the first was removed while being compared, then the one after it


def test_disconnection_may_be_used_by_the_thread_that_holds_its_lock() -> None:
    disconnection = Disconnection()
    called: list[int] = []
    with aiowsgi.bridge.disconnection._lock:  # as where a signal interrupts its holder
        disconnection.add_callback(lambda: called.append(1))
        disconnection.add_callback(print)
        disconnection.remove_callback(print)
        disconnection.set()
    assert called == [1]


@pytest.mark.parametrize("error", [ZeroDivisionError("nothing"), SystemExit("nothing")], ids=["error", "exit"])
def test_disconnection_callback_that_fails_is_logged_and_later_ones_called(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    disconnection = Disconnection()
    called: list[int] = []
    disconnection.add_callback(failing(error))
    disconnection.add_callback(lambda: called.append(1))
    disconnection.set()
    assert called == [1]
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("aiowsgi.error", logging.ERROR)
    assert record.getMessage().endswith(f"a callback of aiowsgi.disconnected, failed: {type(error).__name__}: nothing")
    assert record.exc_info is not None


def test_disconnection_callback_that_fails_beyond_words_keeps_no_later_one() -> None:
    class Untold(Exception):
        def __str__(self) -> str:
            raise SystemExit("on purpose")

    disconnection = Disconnection()
    called: list[int] = []
    disconnection.add_callback(failing(Untold()))
    disconnection.add_callback(lambda: called.append(1))
    disconnection.set()
    assert called == [1]


def failing(error: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise error

    return fail
