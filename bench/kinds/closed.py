"""Closed loops: as many requests as the connections can carry, and what each costs the server.

wrk makes the load; if it is missing our own generator does, and the block says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.errors import CellVoid, ToolMissing
from bench.kinds.job import Job, Measurement
from bench.load import wrk
from bench.load.generator import Generator
from bench.method.verification import greet
from bench.process import ServerProcess

__all__ = ["measure"]

_WARM_UP_SECONDS = 1
_MOST_WARM_UPS = 4
# Two rates in a row that differ by less are steady.
_STEADY = 0.10


@dataclass(frozen=True, slots=True)
class _Run:
    requests: float
    rate: float


def measure(job: Job) -> Measurement:
    """Measure a block."""
    with job.running() as (process, load):
        greet(load, job.scenario) if job.server.name != "null" else None
        run = _Loop(job, process, load)
        result = Measurement(notes=run.notes)
        run.warm_up()
        before = process.snapshot()
        done = run.once(job.scenario.seconds)
        after = process.snapshot()
        result.add_costs(before, after, done.requests, process.memory())
        result.figures["throughput"] = done.rate
        return result


class _Loop:
    def __init__(self, job: Job, process: ServerProcess, load: Generator) -> None:
        self._job = job
        self._process = process
        self._load = load
        self.notes: list[str] = []
        try:
            wrk.require()
            self._wrk = True
        except ToolMissing as error:
            self._wrk = False
            self.notes.append(f"load from the asyncio generator: {error}")

    def warm_up(self) -> None:
        """Load the server until its rate is steady."""
        rate = self.once(_WARM_UP_SECONDS).rate
        if self._job.quick:
            return
        for _ in range(_MOST_WARM_UPS - 1):
            last, rate = rate, self.once(_WARM_UP_SECONDS).rate
            if abs(rate - last) <= _STEADY * rate:
                return
        self.notes.append(f"not steady after {_MOST_WARM_UPS} s of warm-up")

    def once(self, seconds: float) -> _Run:
        """Load the server for a time.

        Raises:
            CellVoid: there was an error.
        """
        request, connections = self._job.request, self._job.scenario.load["connections"]
        if self._wrk:
            result = wrk.run(self._process.port, connections=connections, seconds=seconds, **request)
            return self._run(result.errors, result.requests, result.bytes, result.duration)
        answer = self._load.do("closed", bound=seconds + 30, request=request, connections=connections, seconds=seconds)
        return self._run(answer["errors"], len(answer["latency"]), answer["received"], answer["seconds"])

    def _run(self, errors: Mapping[str, Any], requests: float, received: int, duration: float) -> _Run:
        if errors:
            raise CellVoid("errors under load: " + ", ".join(f"{count:,} {word}" for word, count in errors.items()))
        scenario = self._job.scenario
        if scenario.load.get("count") == "bytes" and scenario.expect.size:
            # At the end each connection is in the middle of a large answer, whose cost counts too.
            requests = received / scenario.expect.size
        return _Run(requests, requests / duration)
