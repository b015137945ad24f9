"""The harness, checked in seconds: does it verify, load, count and sum up?

Two servers, the null server, one closed loop and one open loop; and a report of all that. Figures are only checked for
being possible.

Thread: the main thread.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.environment import capture
from bench.errors import BenchError
from bench.report import markdown, page, plots
from bench.results import Results
from bench.runner import Plan, Run, describe_scenario, describe_servers
from bench.scenario import Scenario, load_scenarios
from bench.servers import SERVERS, Server

__all__ = ["smoke"]

_SERVERS = ("aiowsgi-h11", "wsgiref")
_SCENARIOS = ("hello", "steady")


class _Silent:
    def begins(self, block: int, scenario: Scenario, server: Server, seconds_left: float) -> None:
        """Say nothing."""

    def ends(self, scenario: Scenario, server: Server, outcome: str) -> None:
        """Say nothing."""


def smoke() -> Iterator[str]:
    """Check the harness; yield what was seen, line by line.

    Raises:
        BenchError: something is not right.
    """
    begun = time.time()
    servers = [SERVERS[name] for name in _SERVERS]
    scenarios = [dataclasses.replace(each, seconds=1, load=_SMALL[each.name]) for each in load_scenarios(_SCENARIOS)]
    results = Results(
        run={
            "started": begun,
            "updated": begun,
            "finished": False,
            "quick": True,
            "blocks": 1,
            "seed": 1,
            "baseline": "wsgiref",
        },
        environment=capture(["smoke"]),
        servers=describe_servers(servers),
        scenarios={scenario.name: describe_scenario(scenario) for scenario in scenarios},
    )
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        path = Path(folder, "results.json")
        run = Run(Plan(scenarios, servers, 1, 1, True), results, path, _Silent())
        run.exclude()
        run.measure()
        results = Results.read(path)
        for scenario in scenarios:
            for server in [*_SERVERS, *(["null"] if scenario.null else [])]:
                yield _check(results, scenario, server)
        drawn = plots.draw(results) if plots.available() else []
        if not plots.available():
            yield "no plots: matplotlib is not installed"
        for text in (markdown.render(results, drawn), page.render(results, drawn)):
            if "What the data does not show" not in text or "wsgiref" not in text:
                raise BenchError("smoke: a report lacks its sections")
    yield f"reports rendered, {len(drawn)} plots; {time.time() - begun:.0f} s in all"


_SMALL = {"hello": {"connections": 8}, "steady": {"rate": 100}}


def _check(results: Results, scenario: Scenario, server: str) -> str:
    cell = results.cell(scenario.name, server)
    if cell.reason:
        raise BenchError(f"smoke: {server} on {scenario.name}: {cell.reason}")
    cpu = cell.estimate("cpu")
    if cpu is None or not 0 < cpu.median < 1e6:
        raise BenchError(f"smoke: {server} on {scenario.name}: CPU per request cannot be {cpu}")
    notes = "".join(f"; {note}" for note in cell.notes())
    return f"{scenario.name} {server}: {cpu.median:.0f} µs of CPU per request{notes}"
