"""A run: which cells are measured when, and what happens to those that cannot be.

Thread: the main thread.
"""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.errors import CellVoid, Unsupported
from bench.kinds.job import Job, Measurement
from bench.kinds.registry import MEASURES, seconds_of
from bench.results import Cell, Results
from bench.scenario import Scenario
from bench.servers import NULL, Launch, Server

__all__ = ["Observer", "Plan", "Run", "describe_servers"]


class Observer(Protocol):
    """Is told of a run's progress."""

    def begins(self, block: int, scenario: Scenario, server: Server, seconds_left: float) -> None:
        """A measurement begins."""

    def ends(self, scenario: Scenario, server: Server, outcome: str) -> None:
        """A measurement has ended; the outcome is a few words."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run measures.

    Args:
        blocks: passes over all servers.
        seed: of the order within each.
    """

    scenarios: Sequence[Scenario]
    servers: Sequence[Server]
    blocks: int
    seed: int
    quick: bool

    def steps(self) -> Iterator[tuple[int, Scenario, Server]]:
        """Yield (block, scenario, server) in the order of measurement.

        Servers of a scenario follow one another within a block, in an order that is drawn anew for each: what slows the
        machine down affects all of them, and none is always the first.
        """
        draw = random.Random(self.seed)
        for block in range(self.blocks):
            for scenario in self.scenarios:
                servers = [*self.servers, NULL] if scenario.null else list(self.servers)
                draw.shuffle(servers)
                if block < scenario.most_blocks:
                    yield from ((block, scenario, server) for server in servers)


class Run:
    """Measures a plan into results, which are written after each block of each cell.

    Args:
        results: may hold cells and blocks of an interrupted run; they are not measured again.
        path: of the results.
    """

    def __init__(self, plan: Plan, results: Results, path: Path, observer: Observer) -> None:
        self._plan = plan
        self._results = results
        self._path = path
        self._observer = observer
        self._speed = 1.0

    def seconds_left(self) -> float:
        """Return about how long what is left will take."""
        return self._speed * sum(seconds_of(scenario, self._plan.quick) for _, scenario, _ in self._left())

    def _left(self) -> Iterator[tuple[int, Scenario, Server]]:
        for block, scenario, server in self._plan.steps():
            cell = self._results.cells.get((scenario.name, server.name), Cell())
            if not cell.reason and block not in cell.blocks:
                yield block, scenario, server

    def exclude(self) -> None:
        """Give the cells that cannot be measured their reasons."""
        for scenario in self._plan.scenarios:
            for server in self._plan.servers:
                try:
                    server.versions()
                    server.require(scenario.needs)
                except Unsupported as error:
                    self._results.cells[scenario.name, server.name] = Cell(reason=str(error))
        self._results.write(self._path)

    def measure(self) -> None:
        """Measure what is left."""
        planned = spent = 0.0
        for block, scenario, server in list(self._left()):
            cell = self._results.cells.setdefault((scenario.name, server.name), Cell())
            if cell.reason:
                continue
            self._observer.begins(block, scenario, server, self.seconds_left())
            begun = time.monotonic()
            outcome = self._measure_block(cell, block, scenario, server)
            self._results.run["updated"] = time.time()
            self._results.write(self._path)
            planned += seconds_of(scenario, self._plan.quick)
            spent += time.monotonic() - begun
            self._speed = spent / planned
            self._observer.ends(scenario, server, outcome)

    def _measure_block(self, cell: Cell, block: int, scenario: Scenario, server: Server) -> str:
        measure: Callable[[Job], Measurement] = MEASURES[scenario.kind]
        try:
            cell.blocks[block] = measured = measure(Job(scenario, server, self._plan.quick))
        except CellVoid as error:
            cell.reason = str(error)
            return cell.reason
        name = scenario.figures[0]
        return f"{name} {measured.figures[name]:,.1f}" if name in measured.figures else "done"


def describe_servers(servers: Sequence[Server]) -> dict[str, dict[str, object]]:
    """Return what results say about servers: versions, mapping, and their command with an example port."""
    described: dict[str, dict[str, object]] = {}
    for server in [*servers, NULL]:
        try:
            versions = server.versions()
        except Unsupported:
            versions = {}
        command = server.command(Launch("APPLICATION", 8000))
        described[server.name] = {
            "versions": versions,
            "mapping": server.mapping,
            "command": [Path(part).name if part.startswith("/") else part for part in command],
        }
    return described


def describe_scenario(scenario: Scenario) -> dict[str, object]:
    """Return what results say about a scenario."""
    return dataclasses.asdict(scenario)
