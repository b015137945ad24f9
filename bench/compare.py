"""Two results side by side: how one server, or all of them, changed between two runs.

Blocks of different runs do not form pairs: the medians are divided, and the ratio's interval reaches from the least to
the largest ratio that the two intervals allow. A change counts only if all of that interval lies beyond the threshold.

Thread: any. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.figures import FIGURES, Figure
from bench.method.statistics import Estimate
from bench.results import Results

__all__ = ["Change", "changes", "differing"]

# Runs that differ in one of these are hardly comparable.
_SAME = ("cpu", "cores", "usable_cores", "kernel", "python", "governor")


@dataclass(frozen=True, slots=True)
class Change:
    """A figure of a server on a scenario, in two runs.

    Args:
        ratio: new divided by old; its interval is ``None`` if a run has too few blocks.
        worse: the server is worse by more than the threshold, whichever values within the intervals are true.
        better: likewise.
    """

    scenario: str
    server: str
    figure: Figure
    old: Estimate
    new: Estimate
    ratio: Estimate
    worse: bool
    better: bool


def changes(old: Results, new: Results, threshold: float, server: str = "") -> Iterator[Change]:
    """Compare the first figure of each scenario that both have.

    Args:
        threshold: a ratio above 1: 1.1 lets a figure be a tenth worse.
        server: only this one.
    """
    for scenario, values in new.scenarios.items():
        if scenario not in old.scenarios:
            continue
        figure = FIGURES[values["figures"][0]]
        for name, cell in new.of_scenario(scenario):
            before, after = old.cell(scenario, name).estimate(figure.name), cell.estimate(figure.name)
            if name == "null" or (server and name != server) or not before or not after or not before.median:
                continue
            ratio = _ratio(before, after)
            low, high = ratio.low, ratio.high
            up = low is not None and low > threshold
            down = high is not None and high < 1 / threshold
            less = figure.less_is_better
            yield Change(scenario, name, figure, before, after, ratio, up if less else down, down if less else up)


def _ratio(before: Estimate, after: Estimate) -> Estimate:
    ratio = after.median / before.median
    if before.low is None or before.high is None or after.low is None or after.high is None or not before.low:
        return Estimate(ratio, None, None, min(before.blocks, after.blocks))
    return Estimate(ratio, after.low / before.high, after.high / before.low, min(before.blocks, after.blocks))


def differing(old: Results, new: Results) -> list[str]:
    """Return what differs between the machines, in words."""
    return [
        f"{name.replace('_', ' ')}: {old.environment.get(name)} and {new.environment.get(name)}"
        for name in _SAME
        if old.environment.get(name) != new.environment.get(name)
    ]
