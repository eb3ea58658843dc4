"""Arithmetic on boxes. Everywhere inside: xyxy, float32, absolute pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def area(boxes: NDArray[Any]) -> NDArray[Any]:
    """Return the areas [n] of xyxy boxes [n, 4]; 0 where a box has none."""
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    areas: NDArray[Any] = sides[:, 0] * sides[:, 1]
    return areas


def iou(boxes: NDArray[Any], others: NDArray[Any]) -> NDArray[Any]:
    """Return intersection over union [n, m] of xyxy boxes [n, 4] and [m, 4]; 0 where a box has no area."""
    top_left = np.maximum(boxes[:, None, :2], others[None, :, :2])
    bottom_right = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    sides = np.maximum(bottom_right - top_left, 0)
    intersection = sides[..., 0] * sides[..., 1]
    union = area(boxes)[:, None] + area(others)[None, :] - intersection
    overlaps: NDArray[Any] = np.divide(intersection, union, out=np.zeros_like(intersection), where=intersection > 0)
    return overlaps


def decode_center_size(deltas: NDArray[Any], anchors: NDArray[Any]) -> NDArray[Any]:
    """Return xyxy boxes [..., 4] of (dx, dy, dw, dh) [..., 4] on anchors (cx, cy, w, h) [..., 4].

    The decode of EfficientNMS_TRT with box_coding 1: centre = d * size + centre, size = size * exp(d). Nothing is clamped or clipped.
    """
    centres = deltas[..., :2] * anchors[..., 2:] + anchors[..., :2]
    half = anchors[..., 2:] * np.exp(deltas[..., 2:]) / 2
    return np.concatenate([centres - half, centres + half], axis=-1)
