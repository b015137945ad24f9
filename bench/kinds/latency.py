"""Closed loops measured for their latencies: few connections, or an application that takes longer than the generator.

With one connection the generator makes blocking calls, and nothing else is under way. With several, the latencies are
those *within* the loop: how evenly threads and requests take turns, not what users would see of a stall.
"""

from __future__ import annotations

from typing import Any

from bench.errors import CellVoid
from bench.kinds.job import Job, Measurement
from bench.load.generator import Generator
from bench.method.histogram import Histogram
from bench.method.verification import greet

__all__ = ["measure"]

_WARM_UP_SECONDS = 1.0


def measure(job: Job) -> Measurement:
    """Measure a block."""
    with job.running() as (process, load):
        if job.server.name != "null":
            greet(load, job.scenario)
        _once(job, load, _WARM_UP_SECONDS)
        before = process.snapshot()
        answer = _once(job, load, job.scenario.seconds)
        after = process.snapshot()
        result = Measurement()
        latencies = Histogram(answer["latency"])
        result.add_costs(before, after, len(latencies), process.memory())
        result.add_percentiles(latencies)
        result.figures["throughput"] = len(latencies) / answer["seconds"]
        if "p99" in result.figures:
            result.figures["spread"] = result.figures["p99"] / result.figures["p50"]
        return result


def _once(job: Job, load: Generator, seconds: float) -> dict[str, Any]:
    connections = job.scenario.load["connections"]
    if connections == 1:
        answer = load.do("one_by_one", bound=seconds + 20, request=job.request, seconds=seconds)
    else:
        answer = load.do("closed", bound=seconds + 30, request=job.request, connections=connections, seconds=seconds)
    if answer["errors"]:
        errors = ", ".join(f"{count} {word}" for word, count in answer["errors"].items())
        raise CellVoid(f"errors under load: {errors}")
    return answer
