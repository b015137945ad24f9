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


def hold_up(haste: Haste, *jobs: float, late: float = 0.013) -> None:
    """Report that the loop was held up, how long the next jobs computed, and that it was held up again."""
    haste.note(late)
    for job in jobs:
        haste.judge(job)
    haste.note(late)


LONG = [0.01] * 16
SHORT = [0.001] * 16


def test_haste_of_a_loop_that_long_jobs_held_up_lasts_until_it_is_calm() -> None:
    loop = VirtualLoop()
    haste = Haste(loop, 0.0002)
    found = sys.getswitchinterval()
    hold_up(haste, *LONG, late=0.011)
    assert sys.getswitchinterval() == found
    hold_up(haste, *LONG)
    haste.note(0.5)
    assert sys.getswitchinterval() == pytest.approx(0.0002)
    for _ in range(3):
        haste.note(0.004)  # slightly late, as it is beside threads that compute
        loop.advance(5)
        assert sys.getswitchinterval() == pytest.approx(0.0002)
    loop.advance(5)
    assert sys.getswitchinterval() == found
    hold_up(haste, *LONG)
    assert sys.getswitchinterval() == pytest.approx(0.0002)
    haste.close()
    haste.close()
    assert sys.getswitchinterval() == found
    hold_up(haste, *LONG, late=1.0)
    assert sys.getswitchinterval() == found


@pytest.mark.parametrize(
    ("jobs", "hastens"),
    [
        (SHORT, False),
        (LONG, True),
        # Most of the time is spent in a few long ones; or is not.
        ([*SHORT, 0.03], True),
        ([*SHORT, 0.01], False),
    ],
)
def test_haste_is_for_jobs_that_spend_most_of_their_time_in_long_ones(jobs: list[float], hastens: bool) -> None:
    haste = Haste(VirtualLoop(), 0.0002)
    found = sys.getswitchinterval()
    assert not haste.judging
    haste.note(0.013)
    assert haste.judging
    assert sys.getswitchinterval() == found
    for job in jobs:
        haste.judge(job)
    haste.note(0.013)
    assert sys.getswitchinterval() == (pytest.approx(0.0002) if hastens else found)
    assert not haste.judging
    haste.close()


def test_jobs_that_do_not_end_are_long() -> None:
    loop = VirtualLoop()
    haste = Haste(loop, 0.0002)
    found = sys.getswitchinterval()
    hold_up(haste, *SHORT[:15])
    assert sys.getswitchinterval() == found
    loop.advance(0.2)
    haste.note(0.013)
    assert sys.getswitchinterval() == pytest.approx(0.0002)
    haste.close()


def test_haste_ends_with_the_long_jobs_however_late_the_loop_is() -> None:
    loop = VirtualLoop()
    haste = Haste(loop, 0.0002)
    found = sys.getswitchinterval()
    hold_up(haste, *LONG)
    haste.note(0.1)
    for job in LONG:
        haste.judge(job)
    loop.advance(5)
    assert sys.getswitchinterval() == pytest.approx(0.0002)
    haste.note(0.1)
    assert haste.judging
    for job in SHORT * 4:
        haste.judge(job)
    loop.advance(5)
    assert sys.getswitchinterval() == found


def test_haste_whose_loop_and_owner_are_gone_gives_back() -> None:
    found = sys.getswitchinterval()
    hold_up(Haste(VirtualLoop(), 0.0002), *LONG)
    gc.collect()  # the loop's timer and the haste hold one another
    assert sys.getswitchinterval() == found


def test_haste_with_no_interval_asks_for_nothing() -> None:
    found = sys.getswitchinterval()
    Haste(VirtualLoop(), 0.0).note(1.0)
    assert sys.getswitchinterval() == found
