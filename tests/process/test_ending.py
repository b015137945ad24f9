"""What follows from signals and orders that end a server, in every order."""

from __future__ import annotations

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
    ending = Ending(logging.getLogger("aiowsgi.error"))
    assert [ending.ordered(each) if isinstance(each, str) else ending.signalled(each) for each in asked] == steps
