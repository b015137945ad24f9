"""What a server counts for those who watch it: counters and histograms that only grow, and a snapshot of the rest.

A request that ends costs a few additions; everything else is worked out on demand. A :class:`Snapshot` is plain data
that passes through a pipe, and snapshots add up: so the workers of a machine count as one.

Thread: event loop; a :class:`Snapshot` any.

Source: https://prometheus.io/docs/practices/naming/; for the buckets
https://opentelemetry.io/docs/specs/semconv/http/http-metrics/.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from aiowsgi.server.brokers import broker_counters, broker_gauges, broker_histograms
from aiowsgi.server.stats import take_stats

if TYPE_CHECKING:
    import asyncio

    from aiowsgi.server.engine import Engine
    from aiowsgi.server.observed import ObservedExchange

__all__ = ["DURATION_BUCKETS", "LAG_BUCKETS", "Histogram", "Metrics", "Snapshot", "summed"]

#: Upper bounds in seconds: those that OpenTelemetry recommends, and two more below them.
DURATION_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

# Between two looks at how late the loop is: a thousandth of a loop's time at most.
_LAG_SECONDS = 0.25


class Histogram:
    """Counts of values by the bucket that they fall into.

    Args:
        bounds: upper bounds, inclusive and ascending; values above the last are counted too.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


@dataclass(slots=True)
class Snapshot:
    """What was counted, as plain data.

    Args:
        counters: by name and label, ``"requests status=2xx"``.
        histograms: by name, the counts of the buckets and after them the sum of the values.
        gauges: like the counters; those of different processes add up too.
    """

    counters: dict[str, float] = field(default_factory=dict)
    histograms: dict[str, list[float]] = field(default_factory=dict)
    gauges: dict[str, float] = field(default_factory=dict)

    def as_fields(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {"counters": self.counters, "histograms": self.histograms, "gauges": self.gauges}

    @classmethod
    def from_fields(cls, fields: dict[str, Any]) -> Self:
        """Read what :meth:`as_fields` returned."""
        return cls(fields["counters"], fields["histograms"], fields["gauges"])

    def without_gauges(self) -> Snapshot:
        """Return what remains of a process that has ended."""
        return Snapshot(self.counters, self.histograms)


def summed(snapshots: Iterable[Snapshot]) -> Snapshot:
    """Return the sum of snapshots."""
    counters: Counter[str] = Counter()
    gauges: Counter[str] = Counter()
    histograms: dict[str, list[float]] = {}
    for snapshot in snapshots:
        counters.update(snapshot.counters)
        gauges.update(snapshot.gauges)
        for name, values in snapshot.histograms.items():
            known = histograms.get(name, ())
            # Another release, installed before a reload, may have other buckets: the later ones are all that is left.
            same = len(known) == len(values)
            histograms[name] = [a + b for a, b in zip(known, values, strict=True)] if same else values
    return Snapshot(dict(counters), histograms, dict(gauges))


class Metrics:
    """Counts for one engine.

    Args:
        engine: what is counted.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._statuses = [0] * 10
        self._outcomes: Counter[str] = Counter()
        self._refusals: Counter[str] = Counter()
        self._duration = Histogram(DURATION_BUCKETS)
        self._queue_time = Histogram(DURATION_BUCKETS)
        self._lag = Histogram(LAG_BUCKETS)
        self._thread_seconds = 0.0
        self._received_size = 0
        self._sent_size = 0
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def take(self, x: ObservedExchange) -> None:
        """Count an exchange that has ended."""
        ended_at = x.ended_at
        self._statuses[x.status_code // 100] += 1
        self._outcomes[x.outcome] += 1
        self._duration.observe(ended_at - x.arrived_at)
        started_at = x.started_at
        if started_at:
            self._queue_time.observe(started_at - x.submitted_at)
            self._thread_seconds += (x.handed_over_at or ended_at) - started_at
        elif x.submitted_at:  # it waited in vain, as all do while every thread hangs
            self._queue_time.observe(ended_at - x.submitted_at)
        self._sent_size += x.sent_size
        if x.received_size:
            self._received_size += x.received_size
        if x.refusal is not None:
            self._refusals[x.refusal.detail] += 1

    def snapshot(self) -> Snapshot:
        """Return what was counted, and how things stand now."""
        engine = self._engine
        stats = take_stats(engine)
        counters: dict[str, float] = {
            f"requests status={digit}xx": count
            for digit, count in enumerate(self._statuses[2:], 2)
            if digit <= 5 or count  # an application may answer 600 to 999, which RFC 9110 does not have
        }
        counters["requests status=none"] = self._statuses[0]
        counters |= {f"request_outcomes outcome={outcome}": count for outcome, count in self._outcomes.items()}
        counters |= {f"refusals reason={reason}": count for reason, count in self._refusals.items()}
        counters |= {
            "connections_accepted": engine.accepted_count,
            "request_content_bytes": self._received_size,
            "response_content_bytes": self._sent_size,
            "thread_seconds": self._thread_seconds,
            **broker_counters(),
        }
        gauges: dict[str, float] = {
            **{f"connections state={name}": getattr(stats.connections, name) for name in _CONNECTION_STATES},
            **{f"requests_active state={name}": getattr(stats.requests, name) for name in _REQUEST_STATES},
            **{f"threads state={name}": getattr(stats.threads, name) for name in _THREAD_STATES},
            "queue_length": stats.requests.waiting,
            "workers": 1,
            "workers_taking_turns": stats.threads.taking_turns,
            **broker_gauges(),
        }
        histograms: dict[str, list[float]] = {
            "request_duration_seconds": [*self._duration.counts, self._duration.total],
            "request_queue_seconds": [*self._queue_time.counts, self._queue_time.total],
            "event_loop_lag_seconds": [*self._lag.counts, self._lag.total],
            **broker_histograms(),
        }
        return Snapshot(counters, histograms, gauges)

    # How late the loop is.

    def start(self) -> None:
        """Begin to measure how late the loop is."""
        self._due = self._engine.clock() + _LAG_SECONDS
        self._timer = self._engine.loop.call_later(_LAG_SECONDS, self._look)

    def _look(self) -> None:
        self._lag.observe(max(0.0, self._engine.clock() - self._due))
        self.start()

    def close(self) -> None:
        """Stop measuring."""
        if self._timer is not None:
            self._timer.cancel()


_CONNECTION_STATES = ("idle", "reading", "writing", "closing")
_REQUEST_STATES = ("waiting", "running", "streaming")
_THREAD_STATES = ("idle", "running", "stalled", "stuck")
