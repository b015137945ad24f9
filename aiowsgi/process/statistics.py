"""The figures of one process or of several, their sum, and the line that tells them.

Figures are those of :class:`~aiowsgi.server.stats.ServerStats` as nested dictionaries, so that they go through a pipe.

Thread: any.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aiowsgi.server.stats import ServerStats

__all__ = ["Census", "Figures", "figures_of", "statistics_line", "sum_of"]

Figures = dict[str, dict[str, float]]


def figures_of(stats: ServerStats) -> Figures:
    """Return a snapshot's figures."""
    return dataclasses.asdict(stats)


def sum_of(all_figures: Iterable[Mapping[str, Any]]) -> Figures:
    """Add figures up. Quantiles cannot be added: of those the largest is taken."""
    total: Figures = {}
    for figures in all_figures:
        for group, values in figures.items():
            sums = total.setdefault(group, {})
            for name, value in values.items():
                if group == "queue_wait":
                    sums[name] = max(sums.get(name, 0.0), value)
                else:
                    sums[name] = sums.get(name, 0) + value
    return total


def statistics_line(figures: Mapping[str, Mapping[str, float]]) -> str:
    """Say figures in one line."""
    parts = []
    for group, values in figures.items():
        if group == "queue_wait":
            words = ", ".join(f"{name} {1000 * value:.1f} ms" for name, value in values.items())
        else:
            words = ", ".join(f"{value:.0f} {name.replace('_', ' ')}" for name, value in values.items())
        parts.append(f"{group.replace('_', ' ')}: {words}")
    return "; ".join(parts)


class Census:
    """Gathers the figures of several workers, until all have told or time is up.

    Args:
        numbers: of the workers that were asked.
        deadline: when to do without the rest.
        done: called with the figures by worker, once.
    """

    def __init__(self, numbers: Iterable[int], deadline: float, done: Callable[[dict[int, Figures]], object]) -> None:
        self._missing = set(numbers)
        self._figures: dict[int, Figures] = {}
        self._done = done
        self.deadline = deadline
        self.closed = False

    def add(self, number: int, figures: Figures) -> None:
        """A worker has told."""
        if number in self._missing:
            self._figures[number] = figures
        self.leave_out(number)

    def leave_out(self, number: int) -> None:
        """A worker has told, or will not."""
        self._missing.discard(number)
        self.tick(self.deadline if not self._missing else float("-inf"))

    def tick(self, now: float) -> None:
        """Time has passed."""
        if not self.closed and (not self._missing or now >= self.deadline):
            self.closed = True
            self._done(self._figures)
