"""The figures of one process or of several, their sum, and the line that shows them.

Figures are those of :class:`~aiowsgi.server.stats.ServerStats` as nested dictionaries, so that they go through a pipe.

Thread: any.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from aiowsgi.server.stats import ServerStats

__all__ = ["Figures", "figures_of", "statistics_line", "sum_of"]

Figures = dict[str, dict[str, float]]


def figures_of(stats: ServerStats) -> Figures:
    """Return a snapshot's figures."""
    return dataclasses.asdict(stats)


def sum_of(all_figures: Iterable[Mapping[str, Any]]) -> Figures:
    """Add figures up. Quantiles cannot be added: the largest is taken."""
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
    """Write figures in one line."""
    parts = []
    for group, values in figures.items():
        if group == "queue_wait":
            words = ", ".join(f"{name} {1000 * value:.1f} ms" for name, value in values.items())
        else:
            words = ", ".join(f"{value:.0f} {name.replace('_', ' ')}" for name, value in values.items())
        parts.append(f"{group.replace('_', ' ')}: {words}")
    return "; ".join(parts)
