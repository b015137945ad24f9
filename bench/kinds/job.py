"""What a measurement is given, and what it gives back.

Thread: any.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from bench import accounting
from bench.errors import CellVoid
from bench.load.generator import Generator, generator
from bench.method import verification
from bench.method.histogram import Histogram
from bench.process import ServerProcess, free_port, running
from bench.scenario import Scenario
from bench.servers import NULL, Launch, Server

__all__ = ["Job", "Measurement"]

MB = 1e6


@dataclass(slots=True)
class Measurement:
    """One block of one cell.

    Args:
        figures: name to value, in the unit of :data:`bench.figures.FIGURES`.
        histograms: name to distribution; ``latency`` is that of the figures p50 and p99.
        series: name to pairs, for plots: steps of a scenario that has several.
        notes: what a reader should know of this block.
    """

    figures: dict[str, float] = field(default_factory=dict)
    histograms: dict[str, Histogram] = field(default_factory=dict)
    series: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add_percentiles(self, histogram: Histogram) -> None:
        """Add the latencies, and the percentiles that they support."""
        self.histograms["latency"] = histogram
        for name, percent in (("p50", 50), ("p99", 99)):
            value = histogram.percentile(percent)
            if value is not None:
                self.figures[name] = 1000 * value

    def add_costs(
        self, before: accounting.Snapshot, after: accounting.Snapshot, requests: float, memory: accounting.Memory
    ) -> None:
        """Add what the server cost between two snapshots.

        Raises:
            CellVoid: there were no requests.
        """
        if requests < 1:
            raise CellVoid("no request was answered")
        self.figures |= {
            "cpu": 1e6 * after.cpu_since(before) / requests,
            "switches": after.switches_since(before) / requests,
            "threads": after.threads,
            "processes": after.processes,
            "memory": memory.proportional / MB,
            "peak": memory.peak / MB,
        }


@dataclass(frozen=True, slots=True)
class Job:
    """A block of a cell that is to be measured.

    Args:
        quick: less care is taken.
    """

    scenario: Scenario
    server: Server
    quick: bool = False

    @property
    def request(self) -> dict[str, Any]:
        """The request, as the generator takes it; the null server is asked for as many bytes as the others send."""
        request = verification.request_json(self.scenario)
        if self.server is NULL:
            request["path"] = f"/null/{self.scenario.expect.size or 200}"
        return request

    def launch(self, threads: int | None = None) -> Launch:
        """Return what the server is to serve, on a free port."""
        scenario = self.scenario
        return Launch(scenario.application, free_port(), threads or scenario.threads, scenario.connections)

    @contextmanager
    def running(self, threads: int | None = None) -> Iterator[tuple[ServerProcess, Generator]]:
        """Run the server, verified, and a generator for it.

        Raises:
            CellVoid: it does not start, gives wrong answers, or its port stays taken.
        """
        launch = self.launch(threads)
        with running(self.server, launch) as process, generator(launch.port) as load:
            if self.server is not NULL:
                verification.verify(launch.port, self.scenario)
            yield process, load
