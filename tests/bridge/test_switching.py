"""The switch interval: shorter while somebody asks, as it was found afterwards."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from aiowsgi.bridge.switching import SwitchInterval

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
