"""Work that one at a time does: nothing is done twice at once, nothing is left."""

from __future__ import annotations

from collections import deque

import pytest

from aiowsgi.bridge.one_at_a_time import OneAtATime


def test_who_comes_while_somebody_works_leaves_it_to_him() -> None:
    waiting: deque[str] = deque(["first"])
    done: list[str] = []
    depth = 0

    def work() -> bool:
        nonlocal depth
        depth += 1
        assert depth == 1
        done.append(waiting.popleft())
        if done == ["first"]:
            waiting.append("second")
            work_on()  # as a signal handler does, or another thread
            assert done == ["first"]
        depth -= 1
        return True

    work_on = OneAtATime(lambda: bool(waiting), work)
    work_on()
    assert done == ["first", "second"]


def test_work_that_cannot_go_on_is_left_for_another_call() -> None:
    tried = 0

    def work() -> bool:
        nonlocal tried
        tried += 1
        return False

    work_on = OneAtATime(lambda: True, work)
    work_on()
    assert tried == 1
    work_on()
    assert tried == 2


def test_work_that_fails_may_be_tried_again() -> None:
    results = iter([ValueError("no"), False])

    def work() -> bool:
        result = next(results)
        if isinstance(result, ValueError):
            raise result
        return result

    work_on = OneAtATime(lambda: True, work)
    with pytest.raises(ValueError, match="no"):
        work_on()
    work_on()
    assert next(results, None) is None
