from __future__ import annotations

from typing import Any

from aiowsgi.config import Config
from aiowsgi.process.inside import Inside


def told(requests: int) -> dict[str, Any]:
    return {"counters": {"requests": requests}, "histograms": {}, "gauges": {"workers": 1}}


def metrics(inside: Inside) -> tuple[float, float]:
    """Return how many requests and workers the sum has."""
    fields = inside.metrics()
    return fields["counters"].get("requests", 0), fields["gauges"].get("workers", 0)


def started() -> Inside:
    """Return it with two workers that have told of 100 requests each."""
    inside = Inside(Config())
    for number in (1, 2):
        inside.worker_started(number, slot=number - 1)
        inside.worker_told(number, told(100))
    assert metrics(inside) == (200, 2)
    return inside


def test_worker_that_has_ended_is_counted_once_when_a_census_ends_after_it() -> None:
    inside = started()
    inside.worker_ended(1)
    inside.worker_told(1, told(100))
    assert metrics(inside) == (200, 1)
    inside.worker_ended(2)
    assert metrics(inside) == (200, 0)


def test_last_figures_of_a_worker_stay_when_a_census_ends_after_them() -> None:
    inside = started()
    inside.worker_told(1, told(105), last=True)
    inside.worker_told(1, told(100))
    assert metrics(inside) == (205, 2)
    inside.worker_ended(1)
    assert metrics(inside) == (205, 1)


def test_worker_of_another_release_may_have_other_buckets() -> None:
    inside = Inside(Config())
    for number, counts in enumerate(([1, 2.0], [1, 2, 3.0], [1, 2, 3.0]), 1):
        inside.worker_started(number, slot=number)
        inside.worker_told(number, {"counters": {"requests": 1}, "histograms": {"lag": counts}, "gauges": {}})
    assert inside.metrics()["histograms"] == {"lag": [2, 4, 6.0]}
    assert metrics(inside) == (3, 0)


def test_workers_that_have_ended_leave_only_their_sum() -> None:
    inside = started()
    for number in range(3, 103):
        inside.worker_ended(number - 2)
        inside.worker_started(number, slot=number % 2)
        inside.worker_told(number, told(1), last=number % 2 == 0)
    assert metrics(inside) == (300, 2)
    assert len(inside._telling) <= 2
    assert len(inside._told) == 2
