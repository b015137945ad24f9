"""What follows from signals and orders that end a server, in every order."""

from __future__ import annotations

import itertools
import logging
import signal

import pytest

from aiowsgi.process.ending import Ending, Step

TERM, INT, QUIT = signal.SIGTERM, signal.SIGINT, signal.SIGQUIT
DRAIN = "drain"


@pytest.mark.parametrize(
    ("asked", "steps"),
    [
        ([TERM, TERM], [Step.DRAIN, Step.FORCE]),
        ([TERM, INT], [Step.DRAIN, Step.FORCE]),
        ([INT, TERM], [Step.HASTEN, Step.FORCE]),
        ([DRAIN, DRAIN, DRAIN], [Step.DRAIN, Step.GO_ON, Step.GO_ON]),
        ([DRAIN, TERM, TERM], [Step.DRAIN, Step.GO_ON, Step.FORCE]),
        ([DRAIN, TERM, DRAIN, QUIT], [Step.DRAIN, Step.GO_ON, Step.GO_ON, Step.FORCE]),
        ([TERM, DRAIN, DRAIN], [Step.DRAIN, Step.GO_ON, Step.GO_ON]),
        ([DRAIN, INT, DRAIN, INT], [Step.DRAIN, Step.HASTEN, Step.GO_ON, Step.FORCE]),
        ([QUIT, DRAIN], [Step.HASTEN, Step.GO_ON]),
    ],
)
def test_only_a_second_signal_forces(asked: list[str | signal.Signals], steps: list[Step]) -> None:
    ending = Ending(logging.getLogger("aiowsgi.error"), clock=itertools.count().__next__)
    assert [ending.ordered(each) if isinstance(each, str) else ending.signalled(each) for each in asked] == steps


@pytest.mark.parametrize(
    ("asked", "steps"),
    [
        # timeout(1) signals its child, and then the group that its child is in.
        ([(TERM, 0.0), (TERM, 0.49)], [Step.DRAIN, Step.GO_ON]),
        ([(INT, 0.0), (INT, 0.0), (INT, 0.001)], [Step.HASTEN, Step.GO_ON, Step.GO_ON]),
        # Half a second counts from the first signal, not from the last one; a different signal is always another.
        ([(TERM, 0.0), (TERM, 0.3), (TERM, 0.6)], [Step.DRAIN, Step.GO_ON, Step.FORCE]),
        ([(TERM, 0.0), (TERM, 0.5)], [Step.DRAIN, Step.FORCE]),
        ([(TERM, 0.0), (INT, 0.0)], [Step.DRAIN, Step.FORCE]),
        ([(TERM, 0.0), (TERM, 0.1), (INT, 0.2)], [Step.DRAIN, Step.GO_ON, Step.FORCE]),
        ([(DRAIN, 0.0), (TERM, 0.1), (TERM, 0.2), (TERM, 0.7)], [Step.DRAIN, Step.GO_ON, Step.GO_ON, Step.FORCE]),
    ],
)
def test_same_signal_within_half_a_second_of_the_first_is_that_one(
    asked: list[tuple[str | signal.Signals, float]], steps: list[Step]
) -> None:
    now = 0.0
    ending = Ending(logging.getLogger("aiowsgi.error"), clock=lambda: now)
    taken = []
    for each, now in asked:  # noqa: B007 - the clock reads it
        taken.append(ending.ordered(each) if isinstance(each, str) else ending.signalled(each))
    assert taken == steps
