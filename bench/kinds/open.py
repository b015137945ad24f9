"""Requests at a fixed rate that every server can keep up with: what users see on an ordinary day."""

from __future__ import annotations

from bench.errors import CellVoid
from bench.kinds.job import Job, Measurement

__all__ = ["TIMEOUT", "measure"]

TIMEOUT = 5.0
_WARM_UP_SECONDS = 1.0


def measure(job: Job) -> Measurement:
    """Measure a block."""
    load_ = job.scenario.load
    with job.running() as (process, load):
        job.open_loop(load, [(load_["rate"], 0.2 if job.quick else _WARM_UP_SECONDS)], TIMEOUT)
        before = process.snapshot()
        seen = job.open_loop(load, [(load_["rate"], job.scenario.seconds)], TIMEOUT)
        after = process.snapshot()
        result = Measurement()
        seen.add_to(result)
        latencies = seen.answered()
        if len(latencies) < len(seen.at):
            raise CellVoid("errors under load: " + ", ".join(result.notes))
        result.add_costs(before, after, len(latencies), process.memory())
        result.add_percentiles(latencies)
        return result
