"""Whether an open camera has died: it is silent, or repeats one image, as an unplugged or hung one may do for ever and at full rate."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from retinanet_edge.runtime.camera import RestartLimits

_STRIDE = 16  # rows and columns of the first look, which tells two images of a working sensor apart by its noise


class Staleness:
    """What one connection has given, and when. Times are seconds of one clock; images are uint8 [H, W, 3], and kept until the next."""

    def __init__(self, limits: RestartLimits, started_s: float) -> None:
        self._limits = limits
        self._last: NDArray[np.uint8] | None = None
        self._equal = 0  # images at the end that are equal, the first of them included
        self._first_s: float | None = None
        self._arrived_s = self._changed_s = started_s

    def add(self, image: NDArray[np.uint8], now_s: float) -> bool:
        """Note an image, and return whether it is unlike the one before it, where that counts."""
        same = self._limits.identical_frames > 0 and self._last is not None and _same(image, self._last)
        self._equal = self._equal + 1 if same else 1
        self._last, self._arrived_s = image, now_s
        self._first_s = now_s if self._first_s is None else self._first_s
        self._changed_s = self._changed_s if same else now_s
        return not same

    @property
    def began(self) -> bool:
        """Whether an image has come."""
        return self._first_s is not None

    @property
    def healthy(self) -> bool:
        """Whether new images have come for so long that the failures before it may be forgotten."""
        return self._first_s is not None and self._changed_s - self._first_s >= self._limits.healthy_s

    @property
    def repeats_itself(self) -> bool:
        """Whether one image has come too often in a row."""
        return 0 < self._limits.identical_frames <= self._equal

    def patience_s(self, now_s: float) -> float:
        """Return the seconds left until it counts as silent."""
        return max(0.0, self._arrived_s + self._limits.stale_s - now_s)

    def reason(self, now_s: float) -> str | None:
        """Return why it counts as dead, None where it does not."""
        if self.repeats_itself:
            return f"gave the same image {self._limits.identical_frames} times in a row"
        return f"gave no image for {self._limits.stale_s:g} s" if self.patience_s(now_s) == 0 else None


def _same(image: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    return np.array_equal(image[::_STRIDE, ::_STRIDE], other[::_STRIDE, ::_STRIDE]) and np.array_equal(image, other)
