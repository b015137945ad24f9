"""The figures: what each measures, its unit, and whether less is better.

Thread: any.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FIGURES", "Figure"]


@dataclass(frozen=True, slots=True)
class Figure:
    """A kind of figure.

    Args:
        name: in results and scenario files.
        label: in reports.
        unit: as it is shown.
        less_is_better: ``False`` if more is.
        digits: after the point, for numbers below 100.
        percentile: which one of the block's distribution ``latency`` it is, if any; it can then also be computed over
            all blocks together.
    """

    name: str
    label: str
    unit: str
    less_is_better: bool = True
    digits: int = 1
    percentile: float | None = None

    def show(self, value: float) -> str:
        """Return a value as text, without the unit."""
        if abs(value) >= 1000:
            return f"{value:,.0f}"
        if abs(value) >= 100:
            return f"{value:.0f}"
        return f"{value:.{self.digits}f}"


_ALL = (
    Figure("cpu", "CPU per request", "µs"),
    Figure("throughput", "throughput", "requests/s", less_is_better=False),
    Figure("switches", "context switches per request", "", digits=2),
    Figure("p50", "median latency", "ms", digits=2, percentile=50),
    Figure("p99", "99th percentile", "ms", digits=2, percentile=99),
    Figure("p999", "99.9th percentile", "ms", digits=2, percentile=99.9),
    Figure("spread", "p99 to p50", "×", digits=2),
    Figure("memory", "memory (PSS)", "MB"),
    Figure("late", "lateness of the generator, p99", "ms", digits=2),
    Figure("cut", "slow clients cut off", "", digits=0),
    Figure("peak", "peak memory (RSS)", "MB"),
    Figure("threads", "threads", "", digits=0),
    Figure("processes", "processes", "", digits=0),
    Figure("held", "connections held", "", less_is_better=False, digits=0),
    Figure("each", "memory per connection", "KB"),
    Figure("answered", "quick requests answered", "%", less_is_better=False),
    Figure("refused", "requests refused", "%"),
    Figure("failed", "requests failed", "%"),
    Figure("recovery", "recovery after it", "s", digits=2),
    Figure("lost", "requests lost", "", digits=0),
    Figure("gap", "longest time without an answer", "ms", digits=0),
    Figure("start", "start to first answer", "ms", digits=0),
    Figure("delivered", "events delivered", "%", less_is_better=False),
    Figure("delivery", "CPU per delivery", "µs"),
    Figure("lag", "lag of the host's loop, p99", "ms", digits=2),
    Figure("lag50", "lag of the host's loop, median", "ms", digits=2),
    Figure("null", "share of the null server's throughput", "%", less_is_better=False),
)

FIGURES = {figure.name: figure for figure in _ALL}
