"""Medians, intervals and ratios over blocks."""

from __future__ import annotations

import itertools
import statistics

import pytest

from bench.method.histogram import Histogram
from bench.method.statistics import LEAST_BLOCKS, estimate, paired_ratio


def test_estimate_of_five_blocks_is_the_median_with_the_interval_of_all_resamples():
    values = [10.0, 11.0, 12.0, 13.0, 30.0]
    medians = sorted(statistics.median(each) for each in itertools.product(values, repeat=5))
    found = estimate(values)
    assert found.median == 12.0
    assert (found.low, found.high) == (medians[int(0.025 * 3125)], medians[int(0.975 * 3125)])
    assert found.blocks == 5


def test_estimate_of_many_blocks_is_the_same_each_time():
    values = [float(number % 7) for number in range(40)]
    assert estimate(values) == estimate(values)


def test_estimate_of_two_blocks_has_no_interval():
    found = estimate([1.0, 2.0])
    assert (found.median, found.low, found.high) == (1.5, None, None)
    assert LEAST_BLOCKS == 3


def test_estimate_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no values"):
        estimate([])


def test_ratio_is_taken_within_blocks_so_that_a_slow_block_does_not_count():
    # The third block was slow for both: the ratio of the medians would be 1.5, and 10 % apart in no block.
    own = {0: 10.0, 1: 11.0, 2: 30.0}
    other = {0: 10.0, 1: 10.0, 2: 30.0}
    found = paired_ratio(own, other)
    assert found is not None
    assert found.median == 1.0
    assert found.high == pytest.approx(1.1)


def test_ratio_leaves_out_blocks_that_only_one_side_has():
    found = paired_ratio({0: 2.0, 1: 9.0}, {0: 1.0, 2: 1.0})
    assert found is not None
    assert (found.median, found.blocks) == (2.0, 1)


def test_ratio_to_a_zero_is_none():
    assert paired_ratio({0: 2.0}, {0: 0.0}) is None


def test_percentile_is_within_a_hundredth_of_the_sample():
    histogram = Histogram(number / 1000 for number in range(1, 2001))
    assert histogram.percentile(50) == pytest.approx(1.0, rel=0.01)
    assert histogram.percentile(99) == pytest.approx(1.98, rel=0.01)


def test_percentile_without_samples_beyond_it_is_not_told():
    assert Histogram([0.001] * 999).percentile(99) is None
    assert Histogram([0.001] * 1000).percentile(99) == pytest.approx(0.001, rel=0.01)


def test_histograms_add_up_and_survive_json():
    total = Histogram([0.001, 0.002])
    total.add(Histogram.from_json(Histogram([0.004, 0.0]).to_json()))
    assert len(total) == 4
    latencies, shares = zip(*total.cumulative(), strict=True)
    assert list(shares) == [0.25, 0.5, 0.75, 1.0]
    assert latencies[-1] == pytest.approx(0.004, rel=0.01)
