"""Clients that send a head or content, or read an answer, a few bytes a second; and quick requests beside them.

The question is who else is served: a failure is a figure here, not an error.
"""

from __future__ import annotations

import time

from bench.kinds.job import Job, Measurement

__all__ = ["measure"]

_TIMEOUT = 2.0
# Until the crowd has settled: each slow client has sent its opening, and the server has read it.
_SETTLE_SECONDS = 2.0


def measure(job: Job) -> Measurement:
    """Measure a block."""
    load_ = job.scenario.load
    with job.running() as (process, load):
        load.do("slow", bound=60, heads=load_["heads"], bodies=load_["bodies"], readers=load_["readers"])
        time.sleep(_SETTLE_SECONDS)
        before = process.snapshot()
        seen = job.open_loop(load, [(load_["rate"], job.scenario.seconds)], _TIMEOUT)
        after = process.snapshot()
        result = Measurement()
        seen.add_to(result)
        latencies = seen.answered()
        result.add_percentiles(latencies)
        if len(latencies):
            result.add_costs(before, after, len(latencies), process.memory())
        result.figures["answered"] = seen.share("answered")
        result.figures["cut"] = load.do("slow_cut", bound=10)["cut"]
        return result
