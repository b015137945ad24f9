"""Latencies as counts in buckets whose width is one per cent of their value: small in a file, and exact enough.

Thread: any. Pure.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

__all__ = ["LEAST_BEYOND", "Histogram"]

_WIDTH = math.log(1.01)
# A microsecond: nothing here is quicker.
_LEAST = 1e-6
# A percentile is given only if at least this many samples lie beyond it: with 300 samples, p99 would be the third
# worst.
LEAST_BEYOND = 10


class Histogram:
    """Counts of latencies, in seconds."""

    def __init__(self, values: Iterable[float] = ()) -> None:
        self._counts: Counter[int] = Counter()
        for value in values:
            self._counts[int(math.log(max(value, _LEAST) / _LEAST) / _WIDTH)] += 1

    def __len__(self) -> int:
        return self._counts.total()

    def add(self, other: Histogram) -> None:
        """Add the counts of another one."""
        self._counts.update(other._counts)

    def percentile(self, percent: float) -> float | None:
        """Return the latency below which that many per cent lie; ``None`` where too few samples lie beyond it."""
        total = len(self)
        if total * (1 - percent / 100) < LEAST_BEYOND - 1e-9:
            return None
        rank, seen = total * percent / 100, 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= rank:
                return _middle(bucket)
        return None

    def cumulative(self) -> Iterator[tuple[float, float]]:
        """Yield (latency, share of samples up to it), upwards."""
        total, seen = len(self), 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            yield _middle(bucket), seen / total

    def to_json(self) -> dict[str, int]:
        """Return bucket to count."""
        return {str(bucket): count for bucket, count in sorted(self._counts.items())}

    @classmethod
    def from_json(cls, counts: Mapping[str, int]) -> Histogram:
        """Return the histogram that :meth:`to_json` was called on."""
        self = cls()
        self._counts.update({int(bucket): count for bucket, count in counts.items()})
        return self


def _middle(bucket: int) -> float:
    return _LEAST * math.exp((bucket + 0.5) * _WIDTH)
