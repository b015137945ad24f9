"""Medians, bootstrap intervals over blocks, and ratios within blocks.

A block is one pass over all servers. What slows the machine down for a while slows down the servers of one block alike:
ratios are therefore taken within each block, and only then summed up.

Thread: any. Pure: the same values give the same interval.

Source: B. Efron and R. Tibshirani, An Introduction to the Bootstrap (1993), chapter 13, percentile intervals.
"""

from __future__ import annotations

import functools
import itertools
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["LEAST_BLOCKS", "LEVEL", "Estimate", "estimate", "paired_ratio"]

LEVEL = 0.95
# With fewer there is no interval: two values say nothing of their spread.
LEAST_BLOCKS = 3
# If no more resamples than this exist, all are taken, which leaves nothing to chance: 5 blocks have 3,125.
_MOST_RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure over all blocks.

    Args:
        median: of the blocks.
        low, high: the interval, or ``None`` where there are fewer blocks than :data:`LEAST_BLOCKS`.
        blocks: how many values it rests on.
    """

    median: float
    low: float | None
    high: float | None
    blocks: int


def estimate(values: Sequence[float]) -> Estimate:
    """Sum up the values of the blocks.

    Raises:
        ValueError: there are none.
    """
    if not values:
        raise ValueError("no values")
    low, high = _interval(tuple(values)) if len(values) >= LEAST_BLOCKS else (None, None)
    return Estimate(statistics.median(values), low, high, len(values))


def paired_ratio(values: Mapping[int, float], baseline: Mapping[int, float]) -> Estimate | None:
    """Sum up the ratios to a baseline of those blocks that both have.

    Args:
        values: by block.
        baseline: likewise; a zero is no baseline, and its block is left out.
    """
    ratios = [values[block] / baseline[block] for block in sorted(values) if baseline.get(block)]
    return estimate(ratios) if ratios else None


@functools.cache  # a report asks for the same figures several times
def _interval(values: tuple[float, ...]) -> tuple[float, float]:
    count = len(values)
    if count**count <= _MOST_RESAMPLES:
        resamples: list[Sequence[float]] = list(itertools.product(values, repeat=count))
    else:
        generator = random.Random(0)
        resamples = [generator.choices(values, k=count) for _ in range(_MOST_RESAMPLES)]
    medians = sorted(map(statistics.median, resamples))
    tail = (1 - LEVEL) / 2
    return medians[int(tail * len(medians))], medians[min(len(medians) - 1, int((1 - tail) * len(medians)))]
