"""Which function measures which kind of scenario, and about how long it takes.

Thread: any.
"""

from __future__ import annotations

from collections.abc import Callable

from bench.kinds import closed, latency
from bench.kinds.job import Job, Measurement
from bench.scenario import Scenario

__all__ = ["MEASURES", "seconds_of"]

MEASURES: dict[str, Callable[[Job], Measurement]] = {
    "closed": closed.measure,
    "latency": latency.measure,
}

# A server's start, verification and end; and the warm-up, steady at the second second most of the time.
_START = 1.2
_WARM_UP = 2.2
_QUICK_WARM_UP = 1.1


def seconds_of(scenario: Scenario, quick: bool) -> float:
    """Return about how long one block of a cell takes."""
    warm_up = _QUICK_WARM_UP if quick else _WARM_UP
    own: dict[str, Callable[[], float]] = {
        "closed": lambda: warm_up + scenario.seconds,
        "latency": lambda: 1 + scenario.seconds,
    }
    return _START + own[scenario.kind]()
