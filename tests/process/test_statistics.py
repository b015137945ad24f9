from __future__ import annotations

from aiowsgi.process.statistics import figures_of, statistics_line, sum_of
from aiowsgi.server.stats import ConnectionStats, QueueWaitStats, RequestStats, ServerStats, ThreadStats

STATS = ServerStats(
    ConnectionStats(idle=1, reading=2, writing=3, closing=4),
    RequestStats(waiting=5, running=6, streaming=7, parked=1, done=8),
    ThreadStats(idle=9, running=10, stalled=11, stuck=12, taking_turns=1),
    QueueWaitStats(p50=0.001, p90=0.002, p99=0.5),
)


def test_line_tells_all_figures() -> None:
    assert statistics_line(figures_of(STATS)) == (
        "connections: 1 idle, 2 reading, 3 writing, 4 closing; "
        "requests: 5 waiting, 6 running, 7 streaming, 1 parked, 8 done; "
        "threads: 9 idle, 10 running, 11 stalled, 12 stuck, 1 taking turns; "
        "queue wait: p50 1.0 ms, p90 2.0 ms, p99 500.0 ms"
    )


def test_counts_are_added_and_of_quantiles_the_largest_is_taken() -> None:
    one, other = figures_of(STATS), figures_of(STATS)
    other["queue_wait"]["p50"] = 0.9
    total = sum_of([one, other])
    assert total["requests"]["done"] == 16
    assert total["threads"]["taking_turns"] == 2
    assert total["queue_wait"] == {"p50": 0.9, "p90": 0.002, "p99": 0.5}
    assert one["requests"]["done"] == 8


def test_sum_of_nothing_is_nothing() -> None:
    assert statistics_line(sum_of([])) == ""
