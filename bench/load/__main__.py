"""``python -m bench.load PORT``: the generator, told what to do line by line on its standard input.

A line is JSON: ``{"do": NAME, ...arguments}``; the answer is one line too. Populations that a line has made stay until
the end of the input, so that what follows is measured beside them.

Thread: event loop; standard input is read in a thread.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from bench.load import closed_loop
from bench.load.fan_out import FanOut
from bench.load.http import Request
from bench.load.open_loop import open_loop
from bench.load.populations import IdlePopulation, SlowPopulation
from bench.process import raise_descriptor_limit

__all__ = ["main"]


class _Generator:
    def __init__(self, port: int) -> None:
        self._port = port
        self._idle = IdlePopulation(port)
        self._fan_out = FanOut(port)
        self._slow: list[SlowPopulation] = []
        self._verbs: dict[str, Callable[..., Awaitable[dict[str, object]]]] = {
            "closed": self._closed,
            "fan_out_connect": self._fan_out.connect,
            "fan_out_publish": self._fan_out.publish,
            "greet": self._greet,
            "idle": self._grow,
            "one_by_one": self._one_by_one,
            "open": self._open,
            "slow": self._start_slow,
            "slow_cut": self._slow_cut,
        }

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while line := await loop.run_in_executor(None, sys.stdin.readline):
                arguments = json.loads(line)
                result = await self._verbs[arguments.pop("do")](**arguments)
                print(json.dumps(result), flush=True)
        finally:
            self._idle.close()
            self._fan_out.close()
            for population in self._slow:
                await population.stop()

    async def _closed(self, request: dict[str, Any], **arguments: Any) -> dict[str, object]:
        return await closed_loop.closed_loop(self._port, Request(**request), **arguments)

    async def _greet(self, request: dict[str, Any], **arguments: Any) -> dict[str, object]:
        return await closed_loop.greet(self._port, Request(**request), **arguments)

    async def _one_by_one(self, request: dict[str, Any], **arguments: Any) -> dict[str, object]:
        return closed_loop.one_by_one(self._port, Request(**request), **arguments)

    async def _open(self, request: dict[str, Any], **arguments: Any) -> dict[str, object]:
        return await open_loop(self._port, Request(**request), **arguments)

    async def _grow(self, request: dict[str, Any], **arguments: Any) -> dict[str, object]:
        return self._idle.grow(request=Request(**request), **arguments)

    async def _start_slow(self, heads: int, bodies: int, readers: int) -> dict[str, object]:
        population = SlowPopulation(self._port, heads, bodies, readers)
        self._slow.append(population)
        population.start()
        return {}

    async def _slow_cut(self) -> dict[str, object]:
        return {"cut": sum(population.cut for population in self._slow)}


def _new_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def main() -> None:
    """Run until the standard input ends."""
    raise_descriptor_limit()
    # A garbage collection during a measurement would show up as latency.
    gc.disable()
    with asyncio.Runner(loop_factory=_new_loop) as runner:
        runner.run(_Generator(int(sys.argv[1])).run())


if __name__ == "__main__":
    main()
