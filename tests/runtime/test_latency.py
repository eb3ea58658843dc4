import math

import numpy as np
import pytest

from retinanet_edge.runtime.latency import LatencyHistogram


def test_percentiles_are_right_to_one_percent():
    values = np.random.default_rng(0).lognormal(2.0, 1.5, 20_000)
    histogram = LatencyHistogram()
    for value in values:
        histogram.add(value)
    assert histogram.count == 20_000
    for percent in (1, 50, 95, 99, 100):
        exact = np.percentile(values, percent, method="inverted_cdf")  # nearest rank, as the histogram counts
        assert histogram.percentile(percent) == pytest.approx(exact, rel=0.0101)


def test_nearest_rank_by_hand():
    histogram = LatencyHistogram()
    for value in (1.0, 10.0, 100.0):
        histogram.add(value)
    assert histogram.percentile(33) == pytest.approx(1.0, rel=0.01)  # rank ceil(0.99) = 1
    assert histogram.percentile(34) == pytest.approx(10.0, rel=0.01)  # rank ceil(1.02) = 2
    assert histogram.percentile(99) == pytest.approx(100.0, rel=0.01)  # rank ceil(2.97) = 3


def test_extremes_count_in_the_outermost_bins():
    histogram = LatencyHistogram()
    for value in (0.0, -1.0, 1e300):
        histogram.add(value)
    assert histogram.count == 3
    assert histogram.percentile(50) < 0.002
    assert histogram.percentile(100) == pytest.approx(1e7, rel=0.03)


def test_empty_and_wrong_percent():
    assert math.isnan(LatencyHistogram().percentile(50))
    with pytest.raises(ValueError, match="above 0 and at most 100"):
        LatencyHistogram().percentile(0)
