"""How large the values of a tensor are over many images, and the magnitude up to which INT8 is best to reach.

Counts of magnitudes only: INT8 is symmetric about 0 here. Four rules choose the reach T; INT8 then has the steps 0, s, ... 127 s = T.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.model_card import CalibrationMethod

PERCENTILE = 99.99
BINS = 4096
_STEPS = 127  # of INT8 above 0, where -128 is left out
_LEVELS = 128  # of the entropy rule: its distributions are of values, without sign
_CANDIDATES = 256  # reaches that the squared-error rule compares


class Histogram:
    """Counts of |x| from 0 to a power of two, which doubles when a value is larger: two bins then become one, exactly.

    So one pass over the values does, in constant memory, and their order changes nothing. `zeros` counts those that are exactly 0, as
    half the outputs of a ReLU: INT8 holds them without error whatever its reach, so that rules that weigh errors leave them out.
    """

    def __init__(self) -> None:
        self.largest = 0.0
        self.total = 0
        self.zeros = 0
        self._reach = 0.0  # none before the first value that is not zero
        self._counts = np.zeros(BINS, np.int64)

    def add(self, values: NDArray[np.float32]) -> None:
        """Count values, finite ones of any shape."""
        magnitudes = np.abs(values).ravel()
        self.total += magnitudes.size
        self.zeros += magnitudes.size - int(np.count_nonzero(magnitudes))
        self.largest = max(self.largest, float(magnitudes.max(initial=0)))
        self._widen()
        if self._reach:
            bins = np.minimum(magnitudes * np.float64(BINS / self._reach), BINS - 1).astype(np.int64)
            self._counts += np.bincount(bins, minlength=BINS)
        else:
            self._counts[0] += magnitudes.size

    def reach(self, method: CalibrationMethod) -> float:
        """Return the magnitude up to which INT8 is to reach; 0 where no value but 0 has been seen."""
        if not self.largest:
            return 0.0
        if method == "minmax":
            return self.largest
        if method == "percentile":
            return self.percentile(PERCENTILE)
        counts = self._counts.copy()
        counts[0] -= self.zeros
        width = self._reach / BINS
        return min(least_divergence(counts) * width, self.largest) if method == "entropy" else least_squares(counts, width, self.largest)

    def percentile(self, percent: float) -> float:
        """Return the upper edge of the bin below which `percent` of the values lie, at most the largest value; 0 without values."""
        if not self._reach:
            return 0.0
        index = int(np.searchsorted(np.cumsum(self._counts), self.total * percent / 100))
        return min((index + 1) * self._reach / BINS, self.largest)

    def _widen(self) -> None:
        if not self._reach and self.largest:
            self._reach = 2.0 ** math.ceil(math.log2(self.largest))  # zeros counted so far are in the first bin, where they belong
        while self._reach < self.largest:
            self._reach *= 2
            merged = self._counts.reshape(-1, 2).sum(axis=1)
            self._counts = np.concatenate([merged, np.zeros_like(merged)])


def least_divergence(counts: NDArray[np.int64]) -> int:
    """Return how many bins are to be kept so that 128 levels tell least wrongly how the values are distributed.

    S. Migacz, 8-bit Inference with TensorRT (GTC 2017). Keeping i bins, P is the distribution of the values, those beyond counted in
    the last bin; Q that of the first i bins alone, each level's counts spread evenly over its bins that are not empty. The i from 128
    on with the least Kullback-Leibler divergence sum(P log(P / Q)) is taken. It is infinite, and i passed over, where Q has nothing
    in a bin in which P has: in an empty last bin with values beyond it.

    As Q is even within a level, the sum needs only each level's share of P and of Q, and how many of its bins are not empty: with sums
    up to every bin at hand, a candidate costs 128 steps and not i.
    """
    last_bin = int(np.flatnonzero(counts)[-1])
    kept = np.arange(min(_LEVELS, last_bin + 1), last_bin + 2)
    kept = kept[counts[kept - 1] > 0]
    edges = np.arange(_LEVELS + 1) * kept[:, None] // _LEVELS  # [candidates, 129]
    inside, filled = _between(counts, edges), _between(counts > 0, edges)
    beyond = counts.sum() - inside.sum(axis=1)
    in_reference = inside.astype(np.float64)
    in_reference[:, -1] += beyond
    last = counts[kept - 1]
    logs = np.concatenate([[0.0], np.cumsum(_x_log_x(counts))])
    own = logs[kept] - _x_log_x(last) + _x_log_x(last + beyond)
    with np.errstate(divide="ignore", invalid="ignore"):
        each_bin = np.where(inside > 0, np.log(inside / filled), 0.0)
    total, shares = counts.sum(), inside.sum(axis=1)
    divergence = (own - (in_reference * each_bin).sum(axis=1)) / total - math.log(total) + np.log(shares)
    return int(kept[int(np.argmin(divergence))])


def least_squares(counts: NDArray[np.int64], width: float, largest: float) -> float:
    """Return the reach, one of 256 up to the largest value, with the least expected squared error of rounding and cutting off.

    Values lie evenly within a bin, so that its error is an integral of (x - q(x))^2. From 0 to x that is n s^3 / 12 + (x - n s)^3 / 3
    with the step s and n = min(round(x / s), 127): n whole periods of rounding, and the rest, be it rounded or cut off.
    """
    edges = np.arange(BINS + 1) * (width / largest)  # in units of the largest value, lest cubes of small ones vanish
    best, least = largest, math.inf
    for reach in np.arange(1, _CANDIDATES + 1) / _CANDIDATES:
        step = reach / _STEPS
        whole = np.minimum(np.rint(edges / step), _STEPS)
        integral = whole * step**3 / 12 + (edges - whole * step) ** 3 / 3
        error = float((counts * np.diff(integral)).sum())
        if error < least:
            best, least = float(reach) * largest, error
    return best


def _between(values: NDArray[np.int64] | NDArray[np.bool_], edges: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the sum of values between each edge and the next."""
    sums = np.concatenate([[0], np.cumsum(values)])
    found: NDArray[np.int64] = np.diff(sums[edges], axis=1)
    return found


def _x_log_x(values: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return x log x, 0 for 0."""
    x = values.astype(np.float64)
    return x * np.log(np.maximum(x, 1))
