"""The switch interval: shorter while somebody asks, as it was found afterwards."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import pytest

from aiowsgi.bridge.switching import Haste, SwitchInterval
from aiowsgi.testing import VirtualLoop

FOUND = 0.004


@pytest.fixture(autouse=True)
def found() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(FOUND)
    yield
    sys.setswitchinterval(interval)


def current() -> float:
    return round(sys.getswitchinterval(), 6)


def test_interval_is_what_is_asked_for_until_it_is_given_back() -> None:
    interval = SwitchInterval()
    for _ in range(3):
        interval.ask(0.0002)
        assert current() == 0.0002
        interval.give_back(0.0002)
        assert current() == FOUND


def test_interval_is_the_shortest_that_is_asked_for() -> None:
    interval = SwitchInterval()
    interval.ask(0.001)
    interval.ask(0.0002)
    interval.ask(0.001)
    assert current() == 0.0002
    interval.give_back(0.0002)
    assert current() == 0.001
    interval.give_back(0.001)
    assert current() == 0.001
    interval.give_back(0.001)
    assert current() == FOUND


@pytest.mark.parametrize("seconds", [0.0, 0.5])
def test_interval_is_left_alone_by_who_asks_for_nothing_or_for_a_longer_one(seconds: float) -> None:
    interval = SwitchInterval()
    interval.ask(seconds)
    assert current() == FOUND
    interval.give_back(seconds)
    assert current() == FOUND


def test_interval_that_the_program_changes_and_puts_back_is_given_back_all_the_same() -> None:
    interval = SwitchInterval()
    interval.ask(0.0001)
    assert current() == 0.0001
    for _ in range(2):
        sys.setswitchinterval(sys.getswitchinterval())  # each costs a microsecond
    interval.give_back(0.0001)
    assert current() == FOUND


def test_interval_that_the_program_sets_meanwhile_stays() -> None:
    interval = SwitchInterval()
    interval.ask(0.001)
    sys.setswitchinterval(0.003)
    interval.ask(0.0002)
    assert current() == 0.003
    interval.give_back(0.001)
    interval.give_back(0.0002)
    assert current() == 0.003
    interval.ask(0.001)  # which begins anew
    assert current() == 0.001
    interval.give_back(0.001)
    assert current() == 0.003


# Who asks for it, and when.


def test_haste_of_a_loop_that_was_held_up_lasts_until_it_is_calm() -> None:
    loop = VirtualLoop()
    haste = Haste(loop, 0.0002)
    found = sys.getswitchinterval()
    haste.note(0.011)
    assert sys.getswitchinterval() == found
    haste.note(0.013)
    haste.note(0.5)
    assert sys.getswitchinterval() == pytest.approx(0.0002)
    for _ in range(3):
        haste.note(0.004)  # slightly late, as it is beside threads that compute
        loop.advance(5)
        assert sys.getswitchinterval() == pytest.approx(0.0002)
    loop.advance(5)
    assert sys.getswitchinterval() == found
    haste.note(0.013)
    assert sys.getswitchinterval() == pytest.approx(0.0002)
    haste.close()
    haste.close()
    assert sys.getswitchinterval() == found
    haste.note(1.0)
    assert sys.getswitchinterval() == found


def test_haste_whose_loop_and_owner_are_gone_gives_back() -> None:
    found = sys.getswitchinterval()
    Haste(VirtualLoop(), 0.0002).note(1.0)
    gc.collect()  # the loop's timer and the haste hold one another
    assert sys.getswitchinterval() == found


def test_haste_with_no_interval_asks_for_nothing() -> None:
    found = sys.getswitchinterval()
    Haste(VirtualLoop(), 0.0).note(1.0)
    assert sys.getswitchinterval() == found
