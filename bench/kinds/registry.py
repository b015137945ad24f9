"""Which function measures which kind of scenario, and about how long it takes.

Thread: any.
"""

from __future__ import annotations

from collections.abc import Callable

from bench.kinds import closed, embedding, fan_out, idle, latency, open, overload, reload, slow, startup
from bench.kinds.job import Job, Measurement
from bench.scenario import Scenario

__all__ = ["MEASURES", "seconds_of"]

MEASURES: dict[str, Callable[[Job], Measurement]] = {
    "closed": closed.measure,
    "embedding": embedding.measure,
    "fan_out": fan_out.measure,
    "idle": idle.measure,
    "latency": latency.measure,
    "open": open.measure,
    "overload": overload.measure,
    "reload": reload.measure,
    "slow": slow.measure,
    "startup": startup.measure,
}

# A server's start, verification and end.
_START = 1.5


def seconds_of(scenario: Scenario, quick: bool) -> float:
    """Return about how long one block of a cell takes: its kind's measurement, and the server's start and end."""
    load, seconds = scenario.load, scenario.seconds
    steps = load.get("steps", ())
    kinds: dict[str, float] = {
        "closed": seconds + (1.1 if quick else 2.5),
        "embedding": seconds + 1,
        "fan_out": _START + load.get("clients", 0) / 500 + load.get("events", 0) * load.get("interval", 0),
        "idle": 1 + len(steps) * seconds + max(steps, default=0) / 2500,
        "latency": seconds + 1,
        "open": seconds + 1,
        "overload": seconds + 14,
        "reload": seconds,
        "slow": seconds + 4,
        "startup": 0.5,
    }
    return _START + kinds[scenario.kind]
