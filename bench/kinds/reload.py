"""A reload of the application under load: how many requests it costs, and for how long none is answered."""

from __future__ import annotations

import http.client
import itertools
import os
import threading

from bench.errors import CellVoid, Unsupported
from bench.kinds.job import Job, Measurement
from bench.kinds.open import TIMEOUT

__all__ = ["measure"]

_SIGNAL_AFTER = 2.0


def measure(job: Job) -> Measurement:
    """Measure a block."""
    number = job.server.reload_signal
    if number is None:
        raise Unsupported("has no reload that keeps serving")
    with job.running() as (process, load):
        generation = _generation(process.port)
        timer = threading.Timer(_SIGNAL_AFTER, os.kill, (process.process.pid, number))
        timer.start()
        try:
            seen = job.open_loop(load, [(job.scenario.load["rate"], job.scenario.seconds)], TIMEOUT)
        finally:
            timer.cancel()
            timer.join()
        process.snapshot()
        if _generation(process.port) == generation:
            raise CellVoid(f"did not reload {job.scenario.seconds - _SIGNAL_AFTER:g} s after {number.name}")
    result = Measurement()
    seen.add_to(result)
    latencies = seen.answered()
    result.add_percentiles(latencies)
    ends = sorted(
        at + latency for at, latency, outcome in zip(seen.at, seen.latency, seen.outcome, strict=True) if not outcome
    )
    gaps = [after - before for before, after in itertools.pairwise(ends)]
    result.figures |= {"lost": len(seen.at) - len(latencies), "gap": 1000 * max(gaps, default=0.0)}
    return result


def _generation(port: int) -> bytes:
    """Return what identifies the process that answers, and its start."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
    try:
        connection.request("GET", "/pid")
        return connection.getresponse().read()
    except (OSError, http.client.HTTPException) as error:
        raise CellVoid(f"no answer after the reload: {error}") from error
    finally:
        connection.close()
