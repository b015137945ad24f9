"""Who is told how a reload has ended, and when."""

from __future__ import annotations

from typing import Any

from aiowsgi.process.reload_outcome import ReloadOutcome

DONE = {"reload": "done", "text": "all workers serve"}


def test_before_the_first_reload_there_is_nothing_to_wait_for() -> None:
    answers: list[dict[str, Any]] = []
    outcome = ReloadOutcome()
    assert not outcome.under_way
    outcome.tell(1, answers.append)
    assert answers == [{"reload": "none"}]


def test_all_who_wait_are_told_once() -> None:
    answers: list[dict[str, Any]] = []
    outcome = ReloadOutcome()
    outcome.begin()
    assert outcome.under_way
    outcome.tell(1, answers.append)
    outcome.tell(2, answers.append)
    outcome.begin()  # another, before the first has ended
    assert answers == []
    outcome.end("done", "all workers serve")
    assert answers == [DONE, DONE]
    outcome.end("given up", "the server is ending")
    assert answers == [DONE, DONE]


def test_who_comes_later_is_told_at_once() -> None:
    answers: list[dict[str, Any]] = []
    outcome = ReloadOutcome()
    outcome.begin()
    outcome.end("done", "all workers serve")
    outcome.tell(1, answers.append)
    assert answers == [DONE]


def test_worker_that_is_to_leave_does_not_wait_for_its_own_end() -> None:
    of_first: list[dict[str, Any]] = []
    of_second: list[dict[str, Any]] = []
    outcome = ReloadOutcome()
    outcome.begin()
    outcome.tell(1, of_first.append)
    outcome.tell(2, of_second.append)
    outcome.put_off(1)
    assert (of_first, of_second) == ([{"reload": "under way"}], [])
    outcome.end("done", "all workers serve")
    assert (of_first, of_second) == ([{"reload": "under way"}], [DONE])


def test_worker_that_is_gone_is_told_nothing() -> None:
    answers: list[dict[str, Any]] = []
    outcome = ReloadOutcome()
    outcome.begin()
    outcome.tell(1, answers.append)
    outcome.forget(1)
    outcome.end("done", "all workers serve")
    assert answers == []
