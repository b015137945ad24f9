"""The log behind channels, re-entered by a thread that is already in it. The rest is tested with the channels."""

from __future__ import annotations

import asyncio
import gc

import pytest

from aiowsgi.bridge.broadcast import Broadcast
from tests.recursion import MARGINS, near_the_limit


def test_item_that_is_added_while_another_is_made_comes_before_it() -> None:
    log: Broadcast[str] = Broadcast(10)
    others = ["of a __del__"]

    def make(number: int) -> str:
        if others:
            other = others.pop()
            log.append(lambda number: f"{number} {other}")
        return f"{number} of the thread"

    assert log.append(make) == "2 of the thread"
    assert log.end == 3
    assert [log.get(1), log.get(2)] == ["1 of a __del__", "2 of the thread"]


def test_log_that_is_closed_while_an_item_is_made_has_that() -> None:
    log: Broadcast[str] = Broadcast(10)

    def make(number: int) -> str:
        log.close()
        return "item"

    assert log.append(make) == "item"
    assert (log.closed, log.get(1)) == (True, "item")
    with pytest.raises(RuntimeError, match="closed"):
        log.append(make)


async def test_wait_that_is_collected_while_an_item_is_added_is_forgotten() -> None:
    log: Broadcast[str] = Broadcast(10)
    waiting = [log.wait(1)]
    waiting[0].send(None)

    def make(number: int) -> str:
        assert len(log._waiters) == 1
        waiting.clear()
        gc.collect()
        assert log._waiters == {}
        return "item"

    assert log.append(make) == "item"


async def test_item_that_is_added_close_to_the_recursion_limit_wakes_or_raises() -> None:
    errors = 0
    for margin in MARGINS:
        log: Broadcast[str] = Broadcast(10)
        reader = asyncio.ensure_future(log.wait(1))
        await asyncio.sleep(0)
        try:
            near_the_limit(margin, lambda log=log: log.append(lambda _: "item"))
        except RecursionError:
            errors += 1
            log.append(lambda _: "once more")
        for _ in range(3):
            await asyncio.sleep(0)
        assert reader.done()
    assert 0 < errors < len(MARGINS)
