from __future__ import annotations

import signal

import pytest

from aiowsgi.process.spawn import describe_exit


@pytest.mark.parametrize(
    ("exit_code", "text"),
    [
        (0, "exited with code 0"),
        (-signal.SIGTERM, "was killed by SIGTERM"),
        (-35, "was killed by signal 35"),  # of real time, between those that have names
    ],
)
def test_end_of_a_process_is_told_whatever_has_ended_it(exit_code: int, text: str) -> None:
    assert describe_exit(exit_code) == text
