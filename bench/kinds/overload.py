"""More requests than the threads can run, in an open loop, with a calm time before and after it.

Demand is the same for all: a share of what eight threads can do with an application that waits. What is refused or
fails is a figure here, not an error.
"""

from __future__ import annotations

from bench.kinds.job import Job, Measurement, OpenLoop

__all__ = ["measure", "recovery"]

_TIMEOUT = 10.0
_CALM_SECONDS = 2.0
_AFTER_SECONDS = 10.0
# Back to normal: no slower than twice the median before the overload, plus 10 ms.
_FACTOR, _GRACE = 2.0, 0.010


def measure(job: Job) -> Measurement:
    """Measure a block."""
    load_ = job.scenario.load
    calm = load_["capacity"] * load_["calm_percent"] / 100
    full = load_["capacity"] * load_["percent"] / 100
    begin, end = _CALM_SECONDS, _CALM_SECONDS + job.scenario.seconds
    with job.running() as (process, load):
        before = process.snapshot()
        seen = job.open_loop(load, [(calm, begin), (full, end - begin), (calm, _AFTER_SECONDS)], _TIMEOUT)
        after = process.snapshot()
        memory = process.memory()
    result = Measurement()
    seen.add_to(result)
    result.add_costs(before, after, len(seen.answered()), memory)
    result.add_percentiles(seen.answered(begin, end))
    result.figures["refused"] = seen.share("refused", begin, end)
    result.figures["failed"] = seen.share("failed", begin, end)
    usual = seen.answered(0, begin).percentile(50)
    after_it = None if usual is None else recovery(seen, end, _FACTOR * usual + _GRACE)
    if after_it is None:
        result.notes.append(f"not back to normal {_AFTER_SECONDS:g} s after the overload")
    else:
        result.figures["recovery"] = after_it
    return result


def recovery(seen: OpenLoop, end: float, threshold: float) -> float | None:
    """Return for how long after the overload requests were slower than the threshold, or failed.

    Returns:
        Seconds; ``None`` if that went on until the end.
    """
    after = sorted(
        (at, latency > threshold or outcome != 0)
        for at, latency, outcome in zip(seen.at, seen.latency, seen.outcome, strict=True)
        if at >= end
    )
    # One slow or failed request of fifty does not count: a calm day has such, too.
    window = 50
    for place in range(len(after) - window + 1):
        if sum(bad for _, bad in after[place : place + window]) <= 1:
            return after[place][0] - end
    return None
