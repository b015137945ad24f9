"""Results for tests, made up."""

from __future__ import annotations

from functools import cache
from typing import Any

from bench.kinds.job import Measurement
from bench.method.histogram import Histogram
from bench.results import Cell, Results
from bench.runner import describe_scenario, describe_servers
from bench.scenario import load_scenarios
from bench.servers import SERVERS

__all__ = ["environment", "made_up"]

_SCENARIOS = ("hello", "steady", "idle", "slow_clients")
_SERVERS = ("aiowsgi-httptools", "granian", "waitress")
_COST = {"aiowsgi-httptools": 10.0, "granian": 14.0, "waitress": 100.0, "null": 5.0}


def environment(**changes: Any) -> dict[str, Any]:
    return {
        "command": ["python", "-m", "bench", "run"],
        "cpu": "A <fast> one",
        "cores": 8,
        "usable_cores": 8,
        "governor": "performance",
        "kernel": "6.1",
        "python": "CPython 3.11",
        "load_average": [0.1, 0.1, 0.1],
        "commit": "0123456789abcdef",
        "dirty": False,
        "gil": True,
    } | changes


def made_up(blocks: int = 5, factor: float = 1.0, *, finished: bool = True, **changes: Any) -> Results:
    """Return results in which each server costs ``factor`` times what it does, give or take a hundredth."""
    results = Results(
        run={
            "started": 1.8e9,
            "updated": 1.8e9 + 600,
            "finished": finished,
            "quick": False,
            "blocks": blocks,
            "seed": 1,
            "baseline": "granian",
        },
        environment=environment(**changes),
        servers=describe_servers([SERVERS[name] for name in _SERVERS]),
        scenarios={scenario.name: describe_scenario(scenario) for scenario in load_scenarios(_SCENARIOS)},
    )
    for scenario in results.scenarios:
        for server, cost in _COST.items():
            results.cells[scenario, server] = Cell(
                blocks={block: _measurement(factor * cost * (1 + 0.005 * block)) for block in range(blocks)}
            )
    results.cells["slow_clients", "granian"] = Cell(reason="no <request> was answered")
    return results


def _measurement(cost: float) -> Measurement:
    result = Measurement(
        figures={"cpu": cost, "throughput": 1e6 / cost, "switches": 0.2, "peak": 50, "threads": 9, "memory": 40},
        series={"memory": [(0, 20), (1000, 20 + cost)], "p99": [(0, cost), (1000, 2 * cost)]},
    )
    result.figures |= {"each": cost, "held": 1000, "answered": 99.5, "late": 0.1, "cut": 0}
    result.add_percentiles(_latencies(cost))
    return result


@cache
def _latencies(cost: float) -> Histogram:
    return Histogram(cost * number / 1e6 for number in range(1, 2001))
