"""How long a server takes until its first answer, and what it uses at rest after that."""

from __future__ import annotations

import time

from bench.kinds.job import MB, Job, Measurement

__all__ = ["measure"]

_REST_SECONDS = 0.5


def measure(job: Job) -> Measurement:
    """Measure a block."""
    with job.running() as (process, _):
        time.sleep(_REST_SECONDS)
        counters, memory = process.snapshot(), process.memory()
        return Measurement(
            figures={
                "start": 1000 * process.start_seconds,
                "memory": memory.proportional / MB,
                "peak": memory.peak / MB,
                "threads": counters.threads,
                "processes": counters.processes,
            }
        )
