"""What a measurement is given, and what it gives back.

Thread: any.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from bench import accounting
from bench.errors import CellVoid
from bench.load.generator import Generator, generator
from bench.load.open_loop import OUTCOMES
from bench.method import verification
from bench.method.histogram import Histogram
from bench.process import ServerProcess, free_port, running
from bench.scenario import Scenario
from bench.servers import NULL, Launch, Server

__all__ = ["MB", "Job", "Measurement", "OpenLoop"]

MB = 1e6
# Milliseconds; a generator that is later adds to what it measures.
_LATE = 5.0


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
        for name, percent in (("p50", 50), ("p99", 99), ("p999", 99.9)):
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
class OpenLoop:
    """What became of the requests of an open loop, in the order in which they ended.

    Args:
        at: when each was due, seconds from the start.
        latency: from when it was due, seconds.
        outcome: an index into :data:`bench.load.open_loop.OUTCOMES`.
        late: how late the generator itself was at each.
        words: each status and each kind of failure, and how often it was seen.
    """

    at: list[float]
    latency: list[float]
    outcome: list[int]
    late: list[float]
    words: dict[str, int]

    def answered(self, begin: float = 0.0, end: float = float("inf")) -> Histogram:
        """Return the latencies of the requests that were due in between and were answered with 200."""
        zipped = zip(self.at, self.latency, self.outcome, strict=True)
        return Histogram(latency for at, latency, outcome in zipped if begin <= at < end and not outcome)

    def share(self, outcome: str, begin: float = 0.0, end: float = float("inf")) -> float:
        """Return the percentage of the requests due in between that had this outcome."""
        wanted = OUTCOMES.index(outcome)
        found = [each for at, each in zip(self.at, self.outcome, strict=True) if begin <= at < end]
        return 100 * found.count(wanted) / len(found)

    def add_to(self, result: Measurement) -> None:
        """Add the generator's lateness, and what failed, in words."""
        late = 1000 * sorted(self.late)[int(0.99 * len(self.late))]
        result.figures["late"] = late
        if late > _LATE:
            result.notes.append(f"the generator was late by {late:.0f} ms at p99: the machine was full")
        failed = [f"{count:,} {word}" for word, count in sorted(self.words.items()) if word != "200"]
        if failed:
            result.notes.append("not answered: " + ", ".join(failed))


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
        return Launch(
            scenario.application,
            free_port(),
            threads or scenario.threads,
            scenario.connections,
            reloadable=scenario.kind == "reload",
        )

    def open_loop(self, load: Generator, profile: Sequence[tuple[float, float]], timeout: float) -> OpenLoop:
        """Have requests sent at fixed rates: pairs of a rate and its seconds."""
        seconds = sum(seconds for _, seconds in profile)
        answer = load.do(
            "open", bound=seconds + timeout + 20, request=self.request, profile=list(profile), timeout=timeout
        )
        return OpenLoop(answer["at"], answer["latency"], answer["outcome"], answer["late"], answer["words"])

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
