"""Where boxes will be: a Kalman filter with constant velocity for many boxes at once, time in seconds.

A box is (cx, cy, w, h). Centres move with a velocity that drifts, sizes only drift. All noise is independent from component to component,
so that the usual filter of eight dimensions falls apart into four of two (value, velocity), whose arithmetic is written out here: no
matrix to invert, and all boxes in a few array operations. Noise is in units of the box's size, as in SORT (arXiv:1602.00763) and
ByteTrack (arXiv:2110.06864), but per second, so that dropped frames do no harm.

`states` float64 [5, T, 4] holds value, velocity, and the variance of the value, the covariance of both, the variance of the velocity.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

States = NDArray[np.float64]

# In sizes of the box, its sides' mean; for cx, cy, w, h.
_MEASURED = 0.1  # deviation of a detected side or centre
_FIRST_VELOCITY = np.array([2.0, 2.0, 0.0, 0.0])  # deviation, per second, of what is not known yet
_VELOCITY_DRIFT = np.array([0.5, 0.5, 0.0, 0.0])  # deviation it gains in a second
_VALUE_DRIFT = np.array([0.0, 0.0, 0.25, 0.25])  # likewise of the sides


def start(boxes: NDArray[Any]) -> States:
    """Return states [5, T, 4] of boxes xyxy [T, 4] seen for the first time."""
    values = _centre_and_size(boxes)
    size = _mean_side(values)
    zeros = np.zeros_like(values)
    return np.stack([values, zeros, zeros + (_MEASURED * size) ** 2, zeros, (_FIRST_VELOCITY * size) ** 2])


def predict(states: States, seconds: float) -> States:
    """Return the states `seconds` later: velocities go on, certainty goes down (white noise on the acceleration)."""
    value, velocity, value_variance, covariance, velocity_variance = states
    size = _mean_side(value)
    jolt, drift = (_VELOCITY_DRIFT * size) ** 2, (_VALUE_DRIFT * size) ** 2
    return np.stack([
        value + velocity * seconds,
        velocity,
        value_variance + 2 * seconds * covariance + seconds**2 * velocity_variance + jolt * seconds**3 / 3 + drift * seconds,
        covariance + seconds * velocity_variance + jolt * seconds**2 / 2,
        velocity_variance + jolt * seconds,
    ])  # fmt: skip


def correct(states: States, boxes: NDArray[Any]) -> States:
    """Return the states [5, T, 4] after the boxes xyxy [T, 4] have been seen."""
    value, velocity, value_variance, covariance, velocity_variance = states
    certain = value_variance + (_MEASURED * _mean_side(value)) ** 2
    gain, velocity_gain = value_variance / certain, covariance / certain
    surprise = _centre_and_size(boxes) - value
    return np.stack([
        value + gain * surprise,
        velocity + velocity_gain * surprise,
        (1 - gain) * value_variance,
        (1 - gain) * covariance,
        velocity_variance - velocity_gain * covariance,
    ])  # fmt: skip


def boxes_of(states: States) -> NDArray[np.float64]:
    """Return the boxes xyxy [T, 4] of states [5, T, 4]."""
    centres, halves = states[0, :, :2], states[0, :, 2:] / 2
    return np.concatenate([centres - halves, centres + halves], axis=1)


def _centre_and_size(boxes: NDArray[Any]) -> NDArray[np.float64]:
    corners = boxes.astype(np.float64)
    return np.concatenate([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], axis=1)


def _mean_side(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return [T, 1], at least one pixel: a box without area must not become certain of itself."""
    sides: NDArray[np.float64] = values[:, 2:].mean(axis=1, keepdims=True)
    return np.maximum(sides, 1.0)
