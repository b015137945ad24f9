"""Idle keep-alive connections by the thousand, and quick requests beside them."""

from __future__ import annotations

import resource

from bench.errors import CellVoid
from bench.kinds.job import MB, Job, Measurement
from bench.kinds.open import TIMEOUT

__all__ = ["measure"]

_CONNECT_TIMEOUT = 3.0
# The slowest server here takes about 2 s for a thousand connections, each with its first request.
_SECONDS_PER_CONNECTION = 0.005
_SPARE_DESCRIPTORS = 300


def measure(job: Job) -> Measurement:
    """Measure a block."""
    load_ = job.scenario.load
    most = max(load_["steps"]) + _SPARE_DESCRIPTORS
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if allowed < most:
        raise CellVoid(f"needs {most:,} file descriptors; this system allows {allowed:,}: ulimit -Hn")
    result = Measurement()
    latency: list[tuple[float, float]] = []
    memory: list[tuple[float, float]] = []
    with job.running() as (process, load):
        job.open_loop(load, [(load_["rate"], 1.0)], TIMEOUT)
        for step in load_["steps"]:
            grown = load.do(
                "idle",
                bound=step * _SECONDS_PER_CONNECTION + 30,
                request=job.request,
                count=step,
                timeout=_CONNECT_TIMEOUT,
                within=step * _SECONDS_PER_CONNECTION + 10,
            )
            if grown["held"] < step:
                why = grown["problem"] or "the others were closed"
                result.notes.append(f"held {grown['held']:,} of {step:,}: {why}")
                break
            seen = job.open_loop(load, [(load_["rate"], job.scenario.seconds)], TIMEOUT)
            result.add_percentiles(seen.answered())
            result.figures["answered"] = seen.share("answered")
            memory.append((step, process.memory().proportional / MB))
            if "p99" in result.figures:
                latency.append((step, result.figures["p99"]))
        seen.add_to(result)
        process.snapshot()
    held, used = memory[-1]
    if not held:
        raise CellVoid(result.notes[-1] if result.notes else "no step has connections")
    result.series |= {"p99": latency, "memory": memory}
    result.figures |= {"held": held, "memory": used, "each": 1000 * (used - memory[0][1]) / held}
    return result
