"""Percentiles of durations in bounded memory, for streams that run for months.

A histogram with bins of equal ratio: whatever the count, 8 KB, and a percentile is right to 1 %.
"""

from __future__ import annotations

import math

import numpy as np

_SMALLEST_MS, _LARGEST_MS = 0.001, 1e7  # 1 microsecond to 3 hours
_RATIO = 1.02  # upper edge of a bin / lower edge: the middle is at most 1 % from either
_BINS = math.ceil(math.log(_LARGEST_MS / _SMALLEST_MS, _RATIO))


class LatencyHistogram:
    """Durations in milliseconds, counted in logarithmic bins. What is out of range counts in the outermost bin."""

    def __init__(self) -> None:
        self._counts = np.zeros(_BINS, np.int64)

    def add(self, milliseconds: float) -> None:
        """Count one duration."""
        ratio = max(milliseconds, _SMALLEST_MS) / _SMALLEST_MS
        self._counts[min(int(math.log(ratio, _RATIO)), _BINS - 1)] += 1

    @property
    def count(self) -> int:
        """Durations counted so far."""
        return int(self._counts.sum())

    def percentile(self, percent: float) -> float:
        """Return the smallest duration that `percent` % of all do not exceed (nearest rank), to 1 %; NaN where there is none."""
        if not 0 < percent <= 100:
            raise ValueError(f"percent must be above 0 and at most 100, got {percent}")
        if self.count == 0:
            return math.nan
        rank = math.ceil(self.count * percent / 100)
        index = int(np.searchsorted(np.cumsum(self._counts), rank))
        return float(_SMALLEST_MS * _RATIO ** (index + 0.5))
