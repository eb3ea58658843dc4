"""Histograms of magnitudes and the four rules: by hand, against NumPy's percentiles, the paper's own loops and a closed form."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinanet_edge.export.histograms import BINS, Histogram, least_divergence, least_squares
from retinanet_edge.runtime.model_card import CalibrationMethod


def histogram(*parts: np.ndarray) -> Histogram:
    found = Histogram()
    for part in parts:
        found.add(part.astype(np.float32))
    return found


def test_a_rare_outlier_counts_for_minmax_only() -> None:
    usual = np.linspace(-1, 1, 100_000)
    found = histogram(usual, np.array([50.0]))
    assert found.reach("minmax") == 50.0
    # 99.99 % of 100,001 values: all but the 10 largest magnitudes, so just below 1; bins are 64 / 4096 wide.
    assert 1 - 2e-4 <= found.reach("percentile") <= 1 + 64 / 4096
    # In 50 / 127 wide steps rounding costs (50 / 127)^2 / 12 = 0.013 a value, in all 1290; cutting 50 off at 3 costs 47^2 = 2209 and
    # at 20 900, where rounding costs (20 / 127)^2 / 12 * 100,000 = 207. In between lies the least.
    assert 20 < found.reach("mse") < 50


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=30), st.floats(1, 100))
def test_the_percentile_is_the_nearest_rank_to_a_bin_in_whatever_order_values_come(scales: list[float], percent: float) -> None:
    generator = np.random.default_rng(0)
    parts = [scale * generator.normal(size=200) for scale in scales]
    everything = np.abs(np.concatenate(parts).astype(np.float32))
    width = 2 * everything.max() / BINS  # the histogram reaches at most twice as far as the largest value
    exact = np.sort(everything)[math.ceil(len(everything) * percent / 100) - 1]  # nearest rank
    assert exact - 1e-6 <= histogram(*parts).percentile(percent) <= exact + width * 1.001


METHODS: tuple[CalibrationMethod, ...] = ("minmax", "percentile", "entropy", "mse")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("values", "expected"), [([], 0.0), ([0.0, 0.0], 0.0), ([0.3, 0.3], 0.3), ([1e-30, 0.0], 1e-30), ([-8.0], 8.0)])
def test_empty_zero_constant_and_tiny_values(values: list[float], expected: float, method: CalibrationMethod) -> None:
    assert histogram(np.array(values)).reach(method) == pytest.approx(expected, rel=1 / 128)


@pytest.mark.parametrize("method", METHODS)
def test_order_and_portions_change_no_bit(method: CalibrationMethod) -> None:
    values = np.random.default_rng(1).laplace(size=30_000) * np.linspace(0.01, 3, 30_000)
    orders = ([values], np.split(values, 10), np.split(values[::-1], 6))
    assert len({histogram(*parts).reach(method) for parts in orders}) == 1


@pytest.mark.parametrize("method", ["entropy", "mse"])
def test_zeros_of_a_relu_move_no_rule_that_weighs_errors(method: CalibrationMethod) -> None:
    values = np.abs(np.random.default_rng(2).normal(size=20_000))
    assert histogram(values, np.zeros(100_000)).reach(method) == histogram(values).reach(method)


def slow_divergences(counts: np.ndarray) -> dict[int, float]:
    """Migacz's pseudo code, bin by bin: bins kept -> KL(P || Q), without what is infinite."""
    last, total = int(np.flatnonzero(counts)[-1]), counts.sum()
    found = {}
    for kept in range(128, last + 2):
        reference = counts[:kept].astype(float)
        reference[-1] += counts[kept:].sum()
        candidate = np.zeros(kept)
        for level in range(128):
            bins = [b for b in range(level * kept // 128, (level + 1) * kept // 128) if counts[b]]
            for b in bins:
                candidate[b] = counts[bins].sum() / len(bins)
        p, q = reference / total, candidate / candidate.sum()
        if ((p > 0) & (q == 0)).any():
            continue
        found[kept] = float(sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a))
    return found


def tails(seed: int) -> np.ndarray:
    """A distribution with a long, sparse tail over 300 bins."""
    values = np.random.default_rng(seed).exponential(25, size=4_000)
    return np.bincount(values[values < 300].astype(int), minlength=BINS)


def two_heaps(seed: int) -> np.ndarray:
    values = np.random.default_rng(seed).normal([[30], [200]], [[10], [25]], size=(2, 3_000)).ravel()
    return np.bincount(values[(values > 0) & (values < 300)].astype(int), minlength=BINS)


@pytest.mark.parametrize("counts", [tails(0), tails(1), two_heaps(0)], ids=["tail", "another tail", "two heaps"])
def test_the_least_divergence_is_that_of_the_papers_loops(counts: np.ndarray) -> None:
    divergences = slow_divergences(counts)
    assert len(divergences) > 10
    assert divergences[least_divergence(counts)] == pytest.approx(min(divergences.values()), rel=1e-9)


def test_what_128_levels_hold_exactly_is_kept_whole() -> None:
    counts = np.zeros(BINS, np.int64)
    counts[:BINS] = np.repeat(np.arange(128, 0, -1), BINS // 128)  # even within each of 128 levels of 32 bins
    assert least_divergence(counts) == BINS


def counts_of(density: Callable[[np.ndarray], np.ndarray], reach: float) -> np.ndarray:
    """Counts in bins from 0 to `reach` of a distribution whose complement of the distribution function is `density`."""
    return np.rint(-np.diff(density(np.linspace(0, reach, BINS + 1))) * 1e12).astype(np.int64)


def test_the_least_squares_of_a_laplace_distribution_are_where_the_closed_form_has_them() -> None:
    # Of density exp(-x): rounding costs (T / 127)^2 / 12, cutting off 2 exp(-T). The derivative is 0 where exp(-T) = T / 193548,
    # at T = 9.875: exp(-9.875) = 5.144e-5 and 9.875 / 193548 = 5.102e-5. (Banner et al., Post training 4-bit quantization, who have 9.89
    # for 256 levels.) Candidates are 20 / 256 = 0.08 apart.
    counts = counts_of(lambda x: np.exp(-x), 20.0)
    assert least_squares(counts, 20.0 / BINS, 20.0) == pytest.approx(9.875, abs=0.08)


def test_values_that_lie_evenly_are_hardly_cut_off() -> None:
    # Rounding costs T^2 / 193548, cutting off (1 - T)^3 / 3: the derivative is 0 where (1 - T)^2 = 2 T / 193548, 1 - T = 0.0032.
    assert least_squares(np.ones(BINS, np.int64), 1.0 / BINS, 1.0) == pytest.approx(1 - 0.0032, abs=1 / 256)
